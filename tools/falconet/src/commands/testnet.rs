//! `falconet testnet`: a network on this machine, from nothing to load.

mod directory;
mod followers;
mod screen;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use falconet_bench::cluster::{Filters, Namespaces, Running, StartOptions, Testnet};
use falconet_bench::flood::{Flood, FloodKind, FloodTarget};
use falconet_bench::load::{Load, LoadSpec};
use falconet_bench::progress::{self, OnProgress};
use falconet_bench::report::Report;
use falconet_bench::run::{self, LoadKind, LoadSupply, Watch, Wish, measure, supply_for};
use falconet_bench::supply::{opaque, presigned::FIRST_NONCE};
use falconet_ebpf::{Attach, Limits};

use self::directory::Place;
use self::followers::Followers;
use self::screen::Screen;
use super::bench::verdict;
use super::xdp::Budgets;
use crate::signals::Stop;
use crate::{output, parent};

/// How long validators may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Transfers are signed before the load begins for this long; beyond, while it runs.
const SIGNED_AHEAD: Duration = Duration::from_secs(5);
/// How often a network without load is looked at.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);

/// Run a network of validators on this machine, with a load of signed transfers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet testnet                                  four validators, until Ctrl-C
  falconet testnet --for 30s --load 2000 --json     ends by itself, last line is JSON
  falconet testnet --dir my-chain                   keep the chain; the same again continues it
  falconet testnet --load 0                         no load: send transactions yourself
  sudo falconet testnet --netns --mtu 1500          each validator in a network namespace
  sudo falconet testnet --netns --load 3000 --for 10s --flood 300000 --flood-kind initials
                                                    what a flood does; again with --filter off

Each validator is a process of its own with its own key, disk and sockets. Ctrl-C stops all of them
in order, a second Ctrl-C at once. With --netns, validators have network namespaces of their own on a
bridge of veth pairs; however the network ends, kill -9 included, the kernel removes all of it. Exit
code 1 when states differ, nothing was committed, or a validator ended.")]
pub struct Args {
    /// Number of validators [default: 4]
    #[arg(long, value_name = "N")]
    validators: Option<usize>,
    /// Genesis parameter, for example epoch_heights=64; may be given again
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// Nodes that follow the validators and sign nothing
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "netns")]
    followers: usize,
    /// Directory of the network: made, or continued when it holds one [default: a fresh one, which
    /// is removed after a clean end]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Transactions a second, over all validators; 0 for none
    #[arg(long, value_name = "RATE", default_value_t = 500)]
    load: u64,
    /// End after this long, such as 30s or 5m [default: at Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = output::parse_duration)]
    duration: Option<Duration>,
    /// End with one JSON object on the last line of standard output; everything else goes to
    /// standard error
    #[arg(long)]
    json: bool,
    /// What is sent: falcon1024 or falcon512 transfers, or opaque payloads on a chain that
    /// executes nothing [default: falcon1024]
    #[arg(long)]
    scheme: Option<LoadKind>,
    /// First port: STOQ of validator i is there plus i, HTTP 100 above [default: 26600 if it is
    /// free, else any free ports]
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Put each validator into a network namespace of its own, linked by veth pairs and a bridge;
    /// the load comes from the bridge. Needs root, or a user namespace
    #[arg(long, conflicts_with = "base_port")]
    netns: bool,
    /// With --netns: largest packet on the links, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, requires = "netns")]
    mtu: u32,
    /// With --netns: the packet filter at each validator's door: on (tc, which suits veth, or with
    /// --backend xdp native), off, native (XDP in the driver), generic (XDP in the network stack), tc
    #[arg(long, value_name = "MODE", default_value = "on", requires = "netns")]
    #[arg(value_parser = ["on", "off", "native", "generic", "tc"])]
    filter: String,
    #[command(
        flatten,
        next_help_heading = "Budgets of the filter, PACKETS_A_SECOND:BURST or 0"
    )]
    budgets: Budgets,
    /// With --netns: send junk to the STOQ port of validator 0 meanwhile, so many packets a second
    #[arg(long, value_name = "PACKETS", requires = "netns")]
    flood: Option<u64>,
    /// Send it to so many validators, from 0 on, the same rate to each
    #[arg(long, value_name = "N", default_value_t = 1, requires = "flood")]
    flood_at: usize,
    /// What junk: mixed, by a socket; or at the rate of the kernel, from ever new prefixes, short,
    /// version, connection-id, truncated, udp-length, fragment, extension, small-initial,
    /// forged-packets, forged-initials; or from one source, blocked, packets, initials
    #[arg(long, value_name = "KIND", default_value = "mixed", requires = "flood")]
    flood_kind: FloodKind,
    /// The last validator breaks the protocol on purpose: equivocator, withholder, lane-forker,
    /// timeout-liar, selective-sender, replayer, flooder, slow-loris or hoarder
    #[cfg(feature = "danger-byzantine")]
    #[arg(long, value_name = "KIND")]
    byzantine: Option<falconet_adversary::Kind>,
    /// How datagrams travel between the kernel and each validator [default: auto]
    #[arg(long, value_name = "BACKEND", value_parser = ["auto", "io_uring", "mmsg", "xdp"])]
    backend: Option<String>,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        // Before anything starts a thread, which would stay outside.
        let namespaces = match self.netns {
            true => Some(Namespaces::enter(directory::validators(&self)?, self.mtu)?),
            false => None,
        };
        let stop = Stop::install().context("cannot catch signals")?;
        let screen = Screen::new(self.json);
        let bars = progress::bars();
        let mut place = Place::prepare(&self, &screen, &bars)?;
        let fresh_chain = place.fresh_chain;
        let testnet = &mut place.testnet;
        let result = self.network(testnet, fresh_chain, namespaces, &stop, &screen, &bars);
        place.leave(result.is_ok(), &screen);
        if let Some(report) = result? {
            screen.report(&report)?;
            verdict(&report)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Starts the network, loads it until the end, stops it.
    fn network(
        &self,
        testnet: &mut Testnet,
        fresh_chain: bool,
        namespaces: Option<Namespaces>,
        stop: &Stop,
        screen: &Screen,
        bars: OnProgress<'_>,
    ) -> anyhow::Result<Option<Report>> {
        // On a fresh chain the first nonces are known, and signing does not disturb anybody yet.
        let mut supply = match fresh_chain && self.load > 0 {
            true => Some(self.supply(testnet, FIRST_NONCE, bars)?),
            false => None,
        };
        match &namespaces {
            Some(namespaces) => testnet.assign_addresses(&namespaces.listens())?,
            None => directory::settle_ports(self, testnet, screen)?,
        }
        if self.backend.is_some() {
            testnet.assign_backend(self.backend.as_deref())?;
        }
        let filters = match (&namespaces, self.filter()) {
            (Some(namespaces), Some(how)) => {
                let mut limits = Limits::default();
                self.budgets.apply(&mut limits);
                let filters = Filters::attach(namespaces, how, limits)?;
                screen.line(&format!("filter of each validator: {}", filters.mode(0)));
                if let Some(prefix) = self.flood_kind.blocked() {
                    for index in 0..testnet.validators().len() {
                        filters.block(index, prefix)?;
                    }
                }
                Some(filters)
            }
            _ => None,
        };
        if let (Some(namespaces), Some(filters)) = (&namespaces, &filters) {
            if self.with_af_xdp() && !filters.are_xdp() {
                screen.line(
                    "note: a filter at tc feeds no AF_XDP sockets, and is not gone around: the \
                     validators use the next backend; choose --filter native or generic",
                );
            }
            if namespaces.can_pin() {
                let devices = 0..testnet.validators().len();
                testnet.assign_filters(devices.map(|i| namespaces.device(i)).collect())?;
            }
        }
        let exe = std::env::current_exe().context("cannot find the path of this program")?;
        let options = StartOptions {
            env: parent::to_be_followed(),
            namespaces: namespaces.clone(),
            args: self.arguments(testnet.validators().len()),
            ..StartOptions::default()
        };
        let mut running = Running::start(testnet, &exe, options, |_, line| screen.line(line))?;
        screen.started(testnet);
        let followers = Followers::start(testnet, &exe, self.followers, screen)?;
        if self.netns {
            screen.line(&format!(
                "the network is not reachable from outside; look into it with: nsenter \
                 --net=/proc/{}/ns/net falconet status --http http://{}",
                std::process::id(),
                testnet.validators()[0].http
            ));
        }
        let flood = match (&namespaces, self.flood) {
            (Some(namespaces), Some(rate)) => {
                let chain = testnet.chain_id();
                let targets = testnet.targets().into_iter().take(self.flood_at);
                let targets: Vec<FloodTarget> = (0..)
                    .zip(targets)
                    .map(|(index, target)| FloodTarget {
                        index,
                        addr: target.addr,
                        key: target.key,
                        chain,
                    })
                    .collect();
                Some(Flood::start(namespaces, &targets, self.flood_kind, rate)?)
            }
            _ => None,
        };
        let report = if self.load == 0 {
            self.idle(&mut running, stop, screen)?;
            None
        } else {
            if supply.is_none() {
                let first = run::first_nonce(testnet, &running, bars)?;
                supply = Some(self.supply(testnet, first, bars)?);
            }
            let supply = supply.take().expect("made above");
            Some(self.load(testnet, &mut running, supply, stop, screen)?)
        };
        if let Some(flood) = flood {
            let (sent, rate) = flood.finish()?;
            screen.line(&format!(
                "flood: {sent} packets sent, {rate:.0} a second, {}",
                self.flood_kind
            ));
        }
        if let Some(filters) = filters {
            screen.line(&format!("filter of validator 0: {}", filters.counts(0)?));
        }
        drop(followers);
        let stopped = running.stop(STOP_GRACE);
        for index in stopped.killed {
            screen.line(&format!(
                "validator {index} did not end by itself and was killed"
            ));
        }
        for (index, status) in stopped.failed {
            screen.line(&format!(
                "validator {index} ended badly ({status}); see its log"
            ));
        }
        Ok(report)
    }

    /// Arguments of single validators.
    #[cfg(feature = "danger-byzantine")]
    fn arguments(&self, validators: usize) -> BTreeMap<usize, Vec<String>> {
        let arguments = |kind: falconet_adversary::Kind| {
            let arguments = vec!["--danger-byzantine".into(), kind.to_string()];
            (validators - 1, arguments)
        };
        self.byzantine.map(arguments).into_iter().collect()
    }

    #[cfg(not(feature = "danger-byzantine"))]
    fn arguments(&self, _: usize) -> BTreeMap<usize, Vec<String>> {
        BTreeMap::new()
    }

    /// Where the filter goes; nothing for no filter.
    fn filter(&self) -> Option<Attach> {
        match &*self.filter {
            "off" => None,
            "native" => Some(Attach::Native),
            "generic" => Some(Attach::Generic),
            "tc" => Some(Attach::Tc),
            // tc suits veth, but feeds no AF_XDP sockets.
            _ if self.with_af_xdp() => Some(Attach::Native),
            _ => Some(Attach::Auto),
        }
    }

    fn with_af_xdp(&self) -> bool {
        self.backend.as_deref() == Some("xdp")
    }

    fn supply(
        &self,
        testnet: &Testnet,
        first_nonce: u64,
        bars: OnProgress<'_>,
    ) -> anyhow::Result<LoadSupply> {
        let time = match self.duration {
            Some(duration) => duration + LoadSpec::WARMUP,
            None => SIGNED_AHEAD,
        };
        let ahead = (self.load as f64 * time.as_secs_f64()).ceil() as u64;
        Ok(supply_for(
            testnet,
            first_nonce,
            ahead,
            opaque::PAYLOAD_BYTES,
            bars,
        )?)
    }

    fn load(
        &self,
        testnet: &Testnet,
        running: &mut Running,
        supply: LoadSupply,
        stop: &Stop,
        screen: &Screen,
    ) -> anyhow::Result<Report> {
        let epoch_heights = testnet.genesis().params.epoch_heights;
        let spec = LoadSpec {
            duration: self.duration,
            genesis: (epoch_heights > 0).then(|| testnet.genesis().clone()),
            ..LoadSpec::new(testnet.targets(), testnet.chain_id(), self.load)
        };
        let load = Load::start(spec, supply.supply)?;
        let mut live = screen.live(running.nodes());
        let measured = measure(
            testnet,
            running,
            load,
            supply.transaction_bytes,
            &mut |watch| {
                match watch {
                    Watch::Live(snapshot) => live.show(Some(snapshot)),
                    Watch::Exit(exit) => {
                        live.note(&exit.to_string());
                        return Wish::Stop;
                    }
                }
                if stop.asked() {
                    Wish::Stop
                } else {
                    Wish::Continue
                }
            },
        );
        drop(live);
        Ok(measured?.0)
    }

    /// Watches a network without load.
    fn idle(&self, running: &mut Running, stop: &Stop, screen: &Screen) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut live = screen.live(running.nodes());
        while !stop.asked()
            && self
                .duration
                .is_none_or(|duration| began.elapsed() < duration)
        {
            thread::sleep(IDLE_INTERVAL);
            live.show(None);
            if let Some(exit) = running.exits().first() {
                anyhow::bail!("{exit}");
            }
        }
        Ok(())
    }
}
