//! The stages between the endpoint and the disk: put together, and stopped in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use falconet_crypto::falcon::KeyPair;
use falconet_dataplane::{Event, Stoq};
use falconet_hotstuff::HotStuff;
use falconet_mempool::Mempool;
use tokio::sync::watch;

use crate::busy::BusyMeter;
use crate::byzantine::{Bent, Danger, Hoard};
use crate::catchup::{self, CatchupSender, CatchupThread};
use crate::chain::Chain;
use crate::clients::{ClientTable, ReceiptSender};
use crate::clock::Clock;
use crate::config::Config;
use crate::core::{Core, Executions};
use crate::door::Door;
use crate::execute::ExecuteThread;
use crate::filter::Guard;
use crate::handover::Handover;
use crate::history::{History, HistoryThread};
use crate::http::{self, Api, LiveBoard};
use crate::inbound::Inbound;
use crate::log::LogThread;
use crate::metrics::Metrics;
use crate::metrics::stages::Stage;
use crate::neighbours::Neighbours;
use crate::outbound::Outbound;
use crate::peers::Peers;
use crate::peers::standing::{Counts, Standing};
use crate::pipeline::{
    Arrivals, CORE_QUEUE_MAX, CoreInput, EXECUTE_QUEUE_MAX, HISTORY_QUEUE_MAX, TURN_QUEUE_MAX,
    VERIFY_QUEUE_MAX,
};
use crate::room::Room;
use crate::shelf::{Change, Shelf};
use crate::snapshots::{SnapshotThread, Snapshots};
use crate::status::{CoreStatus, ExecutionStatus, StatusBoard};
use crate::verdicts::VerdictTable;
use crate::verify::VerifyWorker;
use crate::yielding::let_others_go_first;

use super::RunError;
use super::recovery::recover;

/// Puts the stages together.
pub(super) struct Assembly<'a> {
    pub(super) config: &'a Config,
    pub(super) chain: &'a Arc<Chain>,
    pub(super) key: &'a KeyPair,
    pub(super) danger: Danger,
    pub(super) stoq: &'a Stoq,
    pub(super) guard: Option<Arc<Guard>>,
    pub(super) peers: &'a Arc<Peers>,
}

/// Everything between the endpoint and the disk.
pub(super) struct Stages {
    pub(super) board: Arc<StatusBoard>,
    pub(super) stop_http: watch::Sender<bool>,
    /// Dropped at the stop: then the receiving stage ends.
    pub(super) stop_inbound: Sender<()>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) threads: Vec<JoinHandle<()>>,
    /// The core's inputs; the core ends when all who may send have gone.
    pub(super) core: Sender<CoreInput>,
    pub(super) catchup: CatchupSender,
    /// Dropped at the stop: then the exporter ends.
    #[cfg(feature = "otel")]
    pub(super) stop_otel: Option<Sender<()>>,
}

impl Stages {
    /// Each stage ends when the one before it has; waits until all have.
    pub(super) fn stop(self) {
        // An error means that the HTTP thread is gone already.
        let _ = self.stop_http.send(true);
        self.snapshots.stop();
        drop((self.core, self.catchup, self.stop_inbound));
        #[cfg(feature = "otel")]
        drop(self.stop_otel);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Assembly<'_> {
    /// Recovers what the disk has and starts all stages.
    pub(super) fn assemble(
        &self,
        events: &Receiver<Event>,
        listener: &std::net::TcpListener,
    ) -> Result<Stages, RunError> {
        let chain = self.chain;
        let listener = listener.try_clone().map_err(RunError::Control)?;
        let snapshots = Arc::new(Snapshots::open(&self.config.data, Arc::clone(chain))?);
        let found = recover(self.config, chain, self.key, &snapshots)?;
        snapshots.attach(found.store.reader.clone())?;
        let set = chain.set();
        let peers = Arc::clone(self.peers);
        let metrics = Metrics::new(self.stoq.handle(), self.guard.as_ref());
        let counts = Counts {
            faults: metrics.peer_faults.clone(),
            throttled: metrics.frames_throttled.clone(),
        };
        let addresses = self.config.peers.values().map(|addr| *addr.ip());
        let homes = addresses.chain([*self.config.stoq.listen.ip()]);
        let standing = Arc::new(Standing::new(&set, homes, counts));
        let outbound = Outbound::new(
            self.stoq.handle(),
            Arc::clone(&peers),
            Arc::clone(chain),
            Arc::clone(&metrics),
        );
        let verdicts = Arc::new(VerdictTable::default());
        let clients = Arc::new(ClientTable::default());
        let history = History::new(
            Arc::clone(chain),
            found.store.reader,
            Arc::clone(&snapshots),
        );
        let view = found.executor.application().view();

        let (urgent_in, urgent_out) = bounded(VERIFY_QUEUE_MAX);
        let (bulk_in, bulk_out) = bounded(VERIFY_QUEUE_MAX);
        let (core_in, core_out) = bounded(CORE_QUEUE_MAX);
        let (turn_in, turn_out) = bounded(TURN_QUEUE_MAX);
        let (payload_in, payload_out) = bounded(EXECUTE_QUEUE_MAX);
        let (executed_in, executed_out) = unbounded();
        let (history_in, history_out) = bounded(HISTORY_QUEUE_MAX);
        let (catchup_in, catchup_out) = catchup::queue();
        let (stop_inbound, inbound_stopped) = bounded(0);

        let application = found.executor.application();
        let height = application.height();
        let commitment = application.commitment();
        let genesis_commitment = application.genesis_commitment();
        let executions = Executions::new(
            (chain.genesis.params.clone(), genesis_commitment),
            found.commitments,
            height,
            commitment,
        );
        let cut = found.mempool.cut.clone();
        let (mut hotstuff, mempool) = self.cores(found.hotstuff, found.mempool)?;
        let room = Room::new(mempool.intake(Clock::new().now()));
        let arrivals = Arc::new(Arrivals::default());
        let bent = Bent::new(self.danger, chain, self.key, &mut hotstuff);
        let board = Arc::new(StatusBoard::new(
            CoreStatus {
                hotstuff: hotstuff.status(),
                mempool: mempool.status(),
            },
            ExecutionStatus {
                height: height.0,
                commitment,
            },
        ));
        metrics.executed_height.set(height.0 as i64);

        let neighbours = Arc::new(Neighbours {
            stoq: self.stoq.handle(),
            key: Arc::new(self.key.clone()),
            peers: Arc::clone(&peers),
            standing: Arc::clone(&standing),
            guard: self.guard.clone(),
            addresses: self.config.peers.clone(),
        });
        neighbours.follow(chain);
        metrics.epoch.set(chain.info().start.epoch.0 as i64);
        let mut reporter = falconet_epochs::Reporter::new(
            chain.id,
            Box::new(self.key.clone()),
            self.key.scheme(),
            view.clone(),
        );
        let (shelf, evidence) = Shelf::open(&self.config.data, chain);
        for evidence in evidence {
            let of = Change::Drop(evidence.epoch(), evidence.offender());
            if !reporter.found(evidence) {
                shelf.change(&of);
            }
        }
        let core = Core {
            chain: Arc::clone(chain),
            hotstuff,
            mempool,
            executions,
            inputs: core_out,
            executed: executed_out,
            turns: turn_in,
            clients: Arc::clone(&clients),
            room: Arc::clone(&room),
            reserved: Vec::new(),
            arrivals: Arc::clone(&arrivals),
            busy: BusyMeter::default(),
            verdicts: Arc::clone(&verdicts),
            board: Arc::clone(&board),
            metrics: Arc::clone(&metrics),
            standing: Arc::clone(&standing),
            clock: Clock::new(),
            bent,
            reporter,
            waiting: BTreeMap::new(),
            submissions: 0,
            backlog: found.unexecuted,
            cut,
            stage: metrics.stages.clock(Stage::Core),
            watch: crate::trace::Watch::default(),
            handover: Handover::new(Arc::clone(&neighbours), history.clone(), chain.me()),
        };
        let log = LogThread {
            chain: Arc::clone(chain),
            writer: found.store.log,
            shelf,
            turns: turn_out,
            outbound: outbound.clone(),
            payloads: payload_in,
            history: history_in.clone(),
            board: Arc::clone(&board),
            metrics: Arc::clone(&metrics),
            stage: metrics.stages.clock(Stage::Log),
            snapshots: Arc::clone(&snapshots),
        };
        let execute = ExecuteThread {
            executor: found.executor,
            chain: Arc::clone(chain),
            reader: history.reader().clone(),
            payloads: payload_out,
            executed: executed_in,
            verdicts: Arc::clone(&verdicts),
            history_heights: chain.genesis.params.history_heights(),
            receipts: ReceiptSender {
                clients: Arc::clone(&clients),
                outbound: outbound.clone(),
                metrics: Arc::clone(&metrics),
                chain: Arc::clone(chain),
            },
            board: Arc::clone(&board),
            metrics: Arc::clone(&metrics),
            stage: metrics.stages.clock(Stage::Execute),
        };
        let history_thread = HistoryThread {
            history: history.clone(),
            requests: history_out,
            outbound: outbound.clone(),
            hoard: Hoard::new(self.danger),
            stage: metrics.stages.clock(Stage::History),
        };
        let catchup = CatchupThread {
            data: self.config.data.clone(),
            chain: Arc::clone(chain),
            inputs: catchup_out,
            outbound: outbound.clone(),
            peers: Arc::clone(&peers),
            neighbours,
            board: Arc::clone(&board),
            standing: Arc::clone(&standing),
            clock: Clock::new(),
        };
        let snapshot_thread = SnapshotThread {
            images: found.images,
            snapshots: Arc::clone(&snapshots),
        };
        let inbound = Inbound {
            stoq: self.stoq.handle(),
            peers: Arc::clone(&peers),
            standing: Arc::clone(&standing),
            metrics: Arc::clone(&metrics),
            urgent: urgent_in,
            bulk: bulk_in.clone(),
            arrivals,
            outbound,
            chain: Arc::clone(chain),
            clock: Clock::new(),
            core: core_in.clone(),
            catchup: catchup_in.clone(),
            history: history_in,
            guard: self.guard.clone(),
            stage: metrics.stages.clock(Stage::Inbound),
        };
        let door = Arc::new(Door::new(view.clone()));
        let api = Arc::new(Api {
            chain: Arc::clone(chain),
            board: Arc::clone(&board),
            peers,
            standing: Arc::clone(&standing),
            stoq: self.stoq.handle(),
            metrics: Arc::clone(&metrics),
            view,
            history,
            clients,
            bulk: bulk_in,
            live: LiveBoard::default(),
            started: Instant::now(),
        });

        let mut threads = Vec::new();
        for i in 0..self.config.threads.verify_threads() {
            let worker = VerifyWorker {
                chain: Arc::clone(chain),
                door: Arc::clone(&door),
                room: Arc::clone(&room),
                verdicts: Arc::clone(&verdicts),
                metrics: Arc::clone(&metrics),
                standing: Arc::clone(&standing),
                urgent: urgent_out.clone(),
                bulk: bulk_out.clone(),
                core: core_in.clone(),
                catchup: catchup_in.clone(),
                stage: metrics.stages.clock(Stage::Verify),
            };
            let name = format!("verify-{i}");
            threads.push(spawn_behind(&name, move || worker.run())?);
        }
        drop((urgent_out, bulk_out));
        threads.push(spawn_behind("history", move || history_thread.run())?);
        threads.push(spawn_behind("execute", move || execute.run())?);
        threads.push(spawn("log", move || log.run())?);
        threads.push(spawn("core", move || core.run())?);
        let core = core_in;
        threads.push(spawn("catchup", move || catchup.run())?);
        threads.push(spawn_behind("snapshots", move || snapshot_thread.run())?);
        let events = events.clone();
        threads.push(spawn("inbound", move || {
            inbound.run(&events, &inbound_stopped);
        })?);
        #[cfg(feature = "otel")]
        let stop_otel = export(chain, &metrics, &mut threads)?;
        let (stop_http, stop) = watch::channel(false);
        threads.push(serve_http(listener, api, stop)?);
        Ok(Stages {
            board,
            stop_http,
            stop_inbound,
            snapshots,
            threads,
            core,
            catchup: catchup_in,
            #[cfg(feature = "otel")]
            stop_otel,
        })
    }

    fn cores(
        &self,
        hotstuff: falconet_hotstuff::Recovered,
        mempool: falconet_mempool::Recovered,
    ) -> Result<(HotStuff, Mempool), RunError> {
        let chain = self.chain;
        let signer = || Box::new(self.key.clone());
        let params = &chain.genesis.params;
        let info = chain.info();
        let mut hotstuff = HotStuff::new(
            falconet_hotstuff::Config {
                chain_id: chain.id,
                me: chain.me(),
                set: Arc::clone(&info.set),
                params: params.clone(),
                start: info.start,
            },
            signer(),
            hotstuff,
        )?;
        if let Some(proof) = chain.epochs.proof(info.start.epoch.prev()) {
            hotstuff.remember_proof(Arc::new(proof));
        }
        let mempool = Mempool::new(
            falconet_mempool::Config {
                chain_id: chain.id,
                me: chain.me(),
                set: Arc::clone(&info.set),
                params: params.clone(),
            },
            signer(),
            mempool,
        )?;
        Ok((hotstuff, mempool))
    }
}

/// Starts to export to the collector that the environment names.
#[cfg(feature = "otel")]
fn export(
    chain: &Chain,
    metrics: &Arc<Metrics>,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<Option<Sender<()>>, RunError> {
    let Some(settings) = crate::otel::Settings::from_env() else {
        return Ok(None);
    };
    let metrics = Arc::clone(metrics);
    let instance = chain.my_name();
    let started = crate::otel::start(settings, instance, move || metrics.encode());
    let (stop, thread) = started.map_err(RunError::Thread)?;
    threads.push(thread);
    Ok(Some(stop))
}

fn serve_http(
    listener: std::net::TcpListener,
    api: Arc<Api>,
    stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Control)?;
    spawn("control", move || {
        if let Err(error) = runtime.block_on(http::serve(listener, api, stop)) {
            tracing::error!(%error, "the HTTP API stopped");
        }
    })
}

/// As [`spawn`], for a thread that lets the others go first.
fn spawn_behind(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, RunError> {
    spawn(name, move || {
        let_others_go_first();
        body();
    })
}

pub(super) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, RunError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(RunError::Thread)
}
