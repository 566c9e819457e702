//! Putting a world together.

use std::collections::BTreeMap;
use std::sync::Arc;

use falconet_crypto::hash::Hasher;

use super::super::actor::Actor;
use super::super::checkers::{
    Agreement, Availability, Eras, Justification, Liveness, Locks, Promises, SelfConsistency, Sight,
};
use super::super::keys;
use super::super::network::Network;
use super::super::node::{Chain, Node, Setup};
use super::super::rng::Rng;
use super::super::scenario::Scenario;
use super::super::workload::Workload;
use super::{Event, Filter, Pass, Passing, Telling, World};

/// A world before its first event.
pub struct Builder {
    scenario: Scenario,
    actors: BTreeMap<usize, Box<dyn Actor>>,
    filter: Option<Filter>,
    setup: Setup,
    telling: Telling,
    record: bool,
}

impl Builder {
    pub(super) fn new(scenario: Scenario) -> Self {
        Self {
            scenario,
            actors: BTreeMap::new(),
            filter: None,
            setup: Box::new(|_, _| {}),
            telling: Telling::Nothing,
            record: false,
        }
    }

    /// Prints every event.
    #[must_use]
    pub fn tell(mut self) -> Self {
        self.telling = Telling::Print;
        self
    }

    /// Keeps every event's line for [`World::told`].
    #[must_use]
    pub fn keep_log(mut self) -> Self {
        self.telling = Telling::Keep(String::new());
        self
    }

    /// Calls `setup` for each HotStuff core that starts, with its node's index.
    #[must_use]
    pub fn setup(
        mut self,
        setup: impl FnMut(usize, &mut falconet_hotstuff::HotStuff) + 'static,
    ) -> Self {
        self.setup = Box::new(setup);
        self
    }

    /// Lets an actor speak for a validator, which thereby counts as faulty: all faulty ones
    /// together must weigh less than a third, or the checkers will rightly complain.
    #[must_use]
    pub fn actor(mut self, validator: usize, actor: impl Actor + 'static) -> Self {
        self = self.boxed_actor(validator, Box::new(actor));
        self
    }

    /// As [`Builder::actor`].
    #[must_use]
    pub fn boxed_actor(mut self, validator: usize, actor: Box<dyn Actor>) -> Self {
        assert!(validator < self.scenario.own_keys() && !self.scenario.twins.contains(&validator));
        if !self.scenario.byzantine.contains(&validator) {
            self.scenario.byzantine.push(validator);
        }
        self.actors.insert(validator, actor);
        self
    }

    /// Asks `filter` about each message that a node sends to another, before the network decides.
    #[must_use]
    pub fn filter(mut self, filter: impl FnMut(&Passing<'_>) -> Pass + 'static) -> Self {
        self.filter = Some(Box::new(filter));
        self
    }

    /// Keeps what correct nodes send, for [`World::sent`].
    #[must_use]
    pub fn record(mut self) -> Self {
        self.record = true;
        self
    }

    /// The world at time 0.
    #[must_use]
    pub fn build(mut self) -> World {
        let scenario = self.scenario;
        let n = scenario.n;
        let count = scenario.nodes();
        let genesis = keys::genesis(scenario.seed, &scenario.weights, scenario.params.clone());
        let chain = Chain {
            id: genesis.chain_id(),
            set: Arc::new(genesis.validator_set().expect("a valid set")),
            genesis: Arc::new(genesis),
        };
        let faulty: Vec<usize> = (0..scenario.own_keys())
            .filter(|i| scenario.faulty(*i))
            .collect();
        let mut rng = Rng::new(!scenario.seed);
        let workload = if scenario.clients {
            Workload::random(&mut rng, chain.id, n, scenario.calm_us)
        } else {
            Workload::none()
        };
        let mut world = World {
            nodes: (0..count)
                .map(|i| Node::new(i, scenario.validator_of(i)))
                .collect(),
            actors: (0..count).map(|i| self.actors.remove(&i)).collect(),
            filter: self.filter,
            network: Network::new(count),
            now_us: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            started: false,
            events: 0,
            calm: None,
            stalled_until_us: vec![0; count],
            cpu_us: vec![0; count],
            sync_us: vec![scenario.sync_us; count],
            crash_points: vec![None; count],
            effects: vec![0; count],
            crashes: 0,
            installed: 0,
            accusations: Vec::new(),
            refused: vec![0; scenario.own_keys()],
            stake_nonce: 0,
            sent: self.record.then(Vec::new),
            log: Hasher::new("simulation/log"),
            telling: self.telling,
            setup: self.setup,
            faulty_stake: faulty
                .iter()
                .filter_map(|i| scenario.weights.get(*i))
                .map(|weight| weight * keys::STAKE_UNIT)
                .sum(),
            eras: Eras::new(&chain).with_faulty(faulty),
            agreement: Agreement::default(),
            consistency: SelfConsistency::default(),
            justification: Justification::default(),
            locks: Locks::default(),
            availability: Availability::default(),
            promises: Promises::default(),
            sight: Sight::default(),
            liveness: Liveness::default(),
            rng,
            chain,
            workload,
            scenario,
        };
        for (at, fault) in world.scenario.faults.clone() {
            world.schedule(at, Event::Fault(fault));
        }
        world.schedule(world.scenario.calm_us, Event::Calm);
        for submission in world.workload.submissions.clone() {
            world.schedule(submission.at_us, Event::Submit(Box::new(submission)));
        }
        world
    }
}
