//! `GET` and `PUT /v1/log-level`: the only thing that the API lets anybody change, so only from
//! the machine itself.
//!
//! A request counts as local when it comes from a loopback address, names a loopback address or
//! `localhost` as its host (a web site that points its own name at this machine does not), was not
//! handed on by a proxy, and was not made by a web page.

use std::net::SocketAddr;

use axum::Json;
use axum::body::Bytes;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::Caller;
use super::error::ApiError;
use crate::logging;

/// Body of `PUT`, and the answer to both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as
    /// `info,falconet_hotstuff=debug`.
    pub level: String,
}

pub(super) async fn log_level(
    ConnectInfo(Caller(from)): ConnectInfo<Caller>,
    headers: HeaderMap,
) -> Result<Json<LogLevel>, ApiError> {
    local(from, &headers)?;
    current()
}

pub(super) async fn set_log_level(
    ConnectInfo(Caller(from)): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<LogLevel>, ApiError> {
    local(from, &headers)?;
    let wanted: LogLevel = serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(
            "bad_json",
            format!("{error}; send {{\"level\": \"debug\"}}"),
        )
    })?;
    logging::set_level(&wanted.level)
        .map_err(|error| ApiError::bad_request("bad_level", error.to_string()))?;
    current()
}

fn current() -> Result<Json<LogLevel>, ApiError> {
    let level = logging::level().ok_or_else(|| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_logs",
            "another part of the process owns the logs",
        )
    })?;
    Ok(Json(LogLevel { level }))
}

/// Refuses whoever is not on this machine.
fn local(from: SocketAddr, headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |why: &str| {
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "not_local",
            format!("{why}; run falconet log-level on the validator's machine"),
        ))
    };
    if !from.ip().to_canonical().is_loopback() {
        return refuse("only the machine itself may do this");
    }
    for handed_on in ["forwarded", "x-forwarded-for", "x-real-ip", "via"] {
        if headers.contains_key(handed_on) {
            return refuse("the request was handed on by a proxy");
        }
    }
    for by_a_page in ["origin", "sec-fetch-site"] {
        if headers.contains_key(by_a_page) {
            return refuse("the request was made by a web page");
        }
    }
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    if !is_loopback_name(host) {
        return refuse("the request names another host");
    }
    Ok(())
}

/// A host header that can only mean this machine.
fn is_loopback_name(host: &str) -> bool {
    if let Ok(addr) = host.parse::<SocketAddr>() {
        return addr.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || literal
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for good in [
            "[::1]:26700",
            "127.0.0.1:80",
            "localhost:26700",
            "localhost",
            "[::1]",
        ] {
            assert!(is_loopback_name(good), "{good}");
        }
        for bad in [
            "",
            "example.org",
            "evil.example:26700",
            "localhost.evil.example",
            "10.0.0.1:1",
        ] {
            assert!(!is_loopback_name(bad), "{bad}");
        }
    }

    #[test]
    fn others_proxies_and_pages_are_refused() {
        let here: SocketAddr = "[::1]:5000".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "[::1]:26700".parse().unwrap());
        assert!(local(here, &headers).is_ok());
        assert!(local("[2001:db8::1]:5000".parse().unwrap(), &headers).is_err());
        for name in ["x-forwarded-for", "origin", "sec-fetch-site", "via"] {
            let mut headers = headers.clone();
            headers.insert(name, "http://[::1]:26700".parse().unwrap());
            assert!(local(here, &headers).is_err(), "{name}");
        }
        headers.insert(header::HOST, "rebound.example:26700".parse().unwrap());
        assert!(local(here, &headers).is_err());
    }
}
