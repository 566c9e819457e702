//! The HTTP API: for people, scripts and monitoring. Control plane only; bulk submission goes
//! over STOQ. Described by the OpenAPI document at `/openapi.json`.

mod accounts;
mod admin;
mod blocks;
mod epochs;
mod error;
mod gate;
mod health;
mod live;
mod page;
mod transactions;
mod validators;

use std::io;
use std::net::{SocketAddr, SocketAddrV6, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use crossbeam_channel::Sender;
use falconet_dataplane::StoqHandle;
use falconet_ledger::View;
use tokio::sync::watch;

use crate::chain::Chain;
use crate::clients::ClientTable;
use crate::history::History;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::peers::standing::Standing;
use crate::pipeline::Bulk;
use crate::status::StatusBoard;

pub use accounts::AccountAnswer;
pub use admin::LogLevel;
pub use blocks::BlockAnswer;
pub use error::ErrorAnswer;
pub use live::{LatencyStatus, LiveAnswer, LiveBoard, Sample};
pub use transactions::{SubmitAnswer, TransactionAnswer};

/// Largest request body, bytes. A transaction has at most 16 KiB, a third more in base64.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What the handlers need.
pub struct Api {
    /// The chain.
    pub chain: Arc<Chain>,
    /// Condition of the stages.
    pub board: Arc<StatusBoard>,
    /// Who is connected.
    pub peers: Arc<Peers>,
    /// How they stand.
    pub standing: Arc<Standing>,
    /// The transport, for what it knows of the paths.
    pub stoq: StoqHandle,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Accounts; `None` when the application is opaque.
    pub view: Option<View>,
    /// Committed blocks and where transactions are.
    pub history: History,
    /// Transactions on their way.
    pub clients: Arc<ClientTable>,
    /// The verify stage.
    pub bulk: Sender<Bulk>,
    /// The live view.
    pub live: LiveBoard,
    /// When the process started.
    pub started: Instant,
}

type Shared = State<Arc<Api>>;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} for HTTP: {source}; {}", remedy(.source))]
pub struct ListenError {
    addr: SocketAddrV6,
    source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there: stop it or change [http] listen"
        }
        io::ErrorKind::AddrNotAvailable => {
            "the machine does not have this address: change [http] listen"
        }
        _ => "change [http] listen",
    }
}

/// Takes the address before anything else starts, so that a conflict is found early.
pub fn bind(addr: SocketAddrV6) -> Result<TcpListener, ListenError> {
    let listener = TcpListener::bind(addr).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| ListenError { addr, source })
}

/// Serves until `stop` turns true; then finishes open requests.
pub async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let sampler = live::Sampler::new(Arc::clone(&api));
    let service = router(api).into_make_service_with_connect_info::<Caller>();
    let serving = axum::serve(gate::Gate::new(listener), service)
        .with_graceful_shutdown(async move {
            // An error means that the sender is gone, which also means stop.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .into_future();
    tokio::select! {
        served = serving => served,
        () = sampler.run() => unreachable!("it runs until it is dropped"),
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Caller(SocketAddr);

impl Connected<IncomingStream<'_, gate::Gate>> for Caller {
    fn connect_info(stream: IncomingStream<'_, gate::Gate>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// All routes. Every one of them stands in `openapi.json`.
fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/transactions", post(transactions::submit))
        .route("/v1/transactions/{id}", get(transactions::show))
        .route("/v1/accounts/{id}", get(accounts::show))
        .route("/v1/validators", get(validators::show))
        .route("/v1/blocks/{height}", get(blocks::show))
        .route("/v1/epochs/{epoch}/proof", get(epochs::proof))
        .route("/v1/status", get(health::status))
        .route("/v1/live", get(live::live))
        .route(
            "/v1/log-level",
            get(admin::log_level).put(admin::set_log_level),
        )
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .route("/", get(page::html))
        .route("/page.css", get(page::css))
        .route("/page.js", get(page::script))
        .fallback(error::no_route)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

async fn metrics(State(api): Shared) -> impl IntoResponse {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], api.metrics.encode())
}

/// The description of this API.
pub const OPENAPI: &str = include_str!("openapi.json");

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

#[cfg(test)]
mod tests {
    /// The routes of [`super::router`], read from this file's own text, so that a new one cannot
    /// be forgotten in the description.
    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document: serde_json::Value = serde_json::from_str(super::OPENAPI).unwrap();
        let described: Vec<&str> = document["paths"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let source = include_str!("mod.rs");
        let routes: Vec<&str> = source
            .split("\n        .route(")
            .skip(1)
            .filter_map(|rest| rest.split('"').nth(1))
            .collect();
        assert!(routes.len() >= 14);
        for route in &routes {
            assert!(described.contains(route), "{route} is not in openapi.json");
        }
        assert_eq!(described.len(), routes.len());
    }
}
