//! The tables that the programs and user space share, from a loaded object or from pins.

use aya::Ebpf;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, XskMap};

use crate::FilterError;
use crate::abi::{AllowEntry, Settings};
use crate::error::{is_rights, words};
use crate::pins::Pins;

/// Every table by its name in the object, which is also the name of its pin.
pub(crate) const TABLES: [&str; 8] = [
    "settings", "counters", "sources", "totals", "allow", "block", "xsks", "samples",
];

/// The tables that user space reads or writes.
pub(crate) struct Tables {
    pub settings: Array<MapData, Settings>,
    pub counters: PerCpuArray<MapData, u64>,
    pub allow: HashMap<MapData, [u8; 16], AllowEntry>,
    pub block: LpmTrie<MapData, [u8; 16], u64>,
    pub xsks: XskMap<MapData>,
    pub samples: Map,
    /// Only the programs use them.
    _inner: [MapData; 2],
}

impl Tables {
    /// Takes the tables out of a loaded object, and pins them when told to.
    pub(crate) fn from_object(ebpf: &mut Ebpf, pins: Option<&Pins>) -> Result<Self, FilterError> {
        Self::build(|name| {
            let map = ebpf.take_map(name).expect("the object has every table");
            let data = data(map);
            if let Some(pins) = pins {
                data.pin(pins.file(name)).map_err(|error| {
                    if is_rights(&error) {
                        return FilterError::Rights {
                            action: "pinning tables",
                        };
                    }
                    FilterError::Table {
                        table: name,
                        reason: words(&error),
                    }
                })?;
            }
            Ok(data)
        })
    }

    /// Opens pinned tables.
    pub(crate) fn from_pins(pins: &Pins) -> Result<Self, FilterError> {
        Self::build(|name| MapData::from_pin(pins.file(name)).map_err(|e| table_error(name, &e)))
    }

    fn build(
        mut open: impl FnMut(&'static str) -> Result<MapData, FilterError>,
    ) -> Result<Self, FilterError> {
        let at = |name: &'static str| move |error: MapError| table_error(name, &error);
        let settings = Map::Array(open("settings")?);
        let counters = Map::PerCpuArray(open("counters")?);
        let allow = Map::HashMap(open("allow")?);
        let block = Map::LpmTrie(open("block")?);
        let xsks = Map::XskMap(open("xsks")?);
        let samples = Map::RingBuf(open("samples")?);
        let inner = [open("sources")?, open("totals")?];
        Ok(Self {
            settings: Array::try_from(settings).map_err(at("settings"))?,
            counters: PerCpuArray::try_from(counters).map_err(at("counters"))?,
            allow: HashMap::try_from(allow).map_err(at("allow"))?,
            block: LpmTrie::try_from(block).map_err(at("block"))?,
            xsks: XskMap::try_from(xsks).map_err(at("xsks"))?,
            samples,
            _inner: inner,
        })
    }
}

pub(crate) fn table_error(table: &'static str, error: &MapError) -> FilterError {
    if is_rights(error) {
        return FilterError::Rights {
            action: "using the filter's tables",
        };
    }
    FilterError::Table {
        table,
        reason: words(error),
    }
}

fn data(map: Map) -> MapData {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::XskMap(data)
        | Map::RingBuf(data) => data,
        other => panic!("the object has no table of this kind: {other:?}"),
    }
}
