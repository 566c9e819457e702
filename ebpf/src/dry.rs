//! The programs loaded and attached to nothing, fed with packets by hand (`BPF_PROG_TEST_RUN`): for
//! tests, for measuring, and to learn whether a kernel accepts them.

use std::time::Duration;

use aya::Ebpf;
use aya::programs::{
    ProgramError, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult, Xdp,
};

use crate::error::words;
use crate::filter::load_object;
use crate::{Fate, Filter, FilterConfig, FilterError, Mode};

/// Longest frame that can be fed, bytes: one page less what the kernel keeps around it.
pub const FRAME_BYTES_MAX: usize = 3400;

/// Loaded programs without a device.
#[derive(Debug)]
pub struct DryRun {
    ebpf: Ebpf,
    filter: Filter,
}

impl DryRun {
    /// Loads both programs.
    pub fn load(config: &FilterConfig) -> Result<Self, FilterError> {
        config.check()?;
        let mut ebpf = load_object(config)?;
        let filter = Filter::unattached(&mut ebpf, config)?;
        let refused = |error: ProgramError| FilterError::Load(words(&error));
        xdp(&mut ebpf).load().map_err(refused)?;
        tc(&mut ebpf).load().map_err(refused)?;
        Ok(Self { ebpf, filter })
    }

    /// Its lists, settings and counters.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Runs a program `repeat` times on a frame of 14 to [`FRAME_BYTES_MAX`] bytes; what became of
    /// the last packet, and the mean time of one.
    pub fn run(
        &mut self,
        mode: Mode,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(Fate, Duration), FilterError> {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        };
        let result = if mode.is_xdp() {
            xdp(&mut self.ebpf).test_run(options)
        } else {
            tc(&mut self.ebpf).test_run(options)
        };
        let TestRunResult {
            return_value,
            duration,
            ..
        } = result.map_err(|error| FilterError::Load(words(&error)))?;
        let fate = match (mode.is_xdp(), return_value as i32) {
            (true, 1) | (false, 2) => Fate::Drop,
            (true, 2) | (false, -1) => Fate::Pass,
            (true, 4) => Fate::Redirect,
            (_, other) => panic!("the programs return no {other}"),
        };
        Ok((fate, duration))
    }
}

fn xdp(ebpf: &mut Ebpf) -> &mut Xdp {
    let program = ebpf.program_mut("falconet_xdp");
    let program = program.expect("the object has the XDP program");
    program.try_into().expect("it is an XDP program")
}

fn tc(ebpf: &mut Ebpf) -> &mut SchedClassifier {
    let program = ebpf.program_mut("falconet_tc");
    let program = program.expect("the object has the tc program");
    program.try_into().expect("it is a tc program")
}
