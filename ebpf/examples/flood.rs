//! Honest questions and answers beside a flood, over a veth pair between two network namespaces:
//! without a flood, without the filter, with it; and what the filter drops a second beside an
//! empty program that drops everything. Needs root. Trust the ratios: generator, filter and
//! honest parties share the machine.
//!
//! ```text
//! cargo run --release -p falconet-ebpf --example flood
//! ```

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/filter/net.rs"]
mod net;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/filter/support.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use falconet_ebpf::live::Generator;
use falconet_ebpf::{Attach, Cause, Fate, Filter, FilterConfig, PlainVerdict, PlainXdp};

use net::{Net, ask, client, echo};
use support::{Frame, PORT, initial, short};

/// How long each measurement takes.
const TIME: Duration = Duration::from_secs(2);
/// Packets between two looks at the clock; few would be a low rate, see `falconet_ebpf::live`.
const BATCH: u32 = 1 << 18;

fn main() -> anyhow::Result<()> {
    if let Some(reason) = support::cannot() {
        println!("skipped: {reason}");
        return Ok(());
    }
    let net = Net::new();
    let mut version = initial(1200);
    version[4] = 9;
    let floods = [
        ("Initials of version 9", Frame::new(version).bytes()),
        ("short headers too short", Frame::new(short(20)).bytes()),
        ("Initials in 600 bytes", Frame::new(initial(600)).bytes()),
        (
            "well-formed Initials",
            Frame::new(initial(1200)).from("fd00:1::1".parse()?).bytes(),
        ),
    ];
    let pass = net.here(|| PlainXdp::attach("vb", PlainVerdict::Pass))?;
    let quiet = honest(&net, None)?.0;
    println!("honest answers without a flood: {quiet:.0}/s\n");
    let mut unfiltered = Vec::new();
    for (_, frame) in &floods {
        unfiltered.push(honest(&net, Some(frame))?);
    }
    drop(pass);
    println!(
        "{:<26} {:>22} {:>22}",
        "share of honest answers", "without the filter", "with the filter"
    );
    let config = FilterConfig::new(PORT);
    let filter = net.here(|| Filter::attach("vb", &config, Attach::Native, None))?;
    for ((name, frame), (without, _)) in floods.iter().zip(&unfiltered) {
        let (with, _) = honest(&net, Some(frame))?;
        let share = |rate: f64| format!("{:.0} %", rate / quiet * 100.0);
        println!("{name:<26} {:>22} {:>22}", share(*without), share(with));
    }
    println!(
        "\ndropped: {}, of them over budget: {}",
        filter.counters()?.total(Fate::Drop),
        filter.counters()?[Cause::ClientInitials]
    );
    let malformed = &floods[0].1;
    let rate = |net: &Net| net.there(|| generate("va", malformed, || false));
    let with = rate(&net)?;
    drop(filter);
    let empty = net.here(|| PlainXdp::attach("vb", PlainVerdict::Drop))?;
    let alone = rate(&net)?;
    drop(empty);
    println!(
        "malformed packets a second: filter {with:.0}, empty XDP_DROP {alone:.0}: {:.0} %",
        with / alone * 100.0
    );
    Ok(())
}

/// Honest answers a second, and packets a second of the flood beside them.
fn honest(net: &Net, flood: Option<&[u8]>) -> anyhow::Result<(f64, f64)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| net.here(|| echo(&stop, PORT)));
        let flood = flood.map(|frame| {
            let stop = &stop;
            scope
                .spawn(move || net.there(|| generate("va", frame, || stop.load(Ordering::Relaxed))))
        });
        let answers = net.there(|| {
            let socket = client(PORT);
            let datagram = short(200);
            ask(&socket, &datagram);
            let start = Instant::now();
            let mut answers = 0u32;
            while start.elapsed() < TIME {
                ask(&socket, &datagram);
                answers += 1;
            }
            f64::from(answers) / start.elapsed().as_secs_f64()
        });
        stop.store(true, Ordering::Relaxed);
        let sent = flood.map_or(Ok(0.0), |flood| flood.join().expect("it does not panic"))?;
        Ok((answers, sent))
    })
}

/// Sends a frame out of a device as fast as it goes, for the time of a measurement or until told
/// to stop; packets a second.
fn generate(device: &str, frame: &[u8], stop: impl Fn() -> bool) -> anyhow::Result<f64> {
    let mut generator = Generator::new(device)?;
    let start = Instant::now();
    let mut sent = 0u64;
    while start.elapsed() < TIME * 2 && !stop() {
        generator.send(frame, BATCH)?;
        sent += u64::from(BATCH);
    }
    Ok(sent as f64 / start.elapsed().as_secs_f64())
}
