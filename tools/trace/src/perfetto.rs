//! A trace that <https://ui.perfetto.dev> opens: the JSON trace event format. Threads are tracks
//! with what they work on, each batch is an asynchronous track, steps of rounds are instants.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::event::Event;

/// Events that are kept for a trace; a second of a busy validator has fewer.
pub const EVENTS_MAX: usize = 2_000_000;

/// Batches of one lane that a block ends in the trace.
const BATCHES_A_BLOCK_MAX: u64 = 1024;

/// The trace of `events`, which are of the process `pid`.
pub fn trace(pid: u32, events: &[Event]) -> Value {
    let mut rows = Vec::new();
    let mut open: HashMap<(u32, &str), u64> = HashMap::new();
    let mut threads = BTreeMap::new();
    let us = |ns: u64| ns as f64 / 1e3;
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by_key(|event| event.time_ns);
    for event in sorted {
        let (now, thread, args) = (event.time_ns, event.thread, event.args);
        threads.insert(thread, event.comm.clone());
        let slice = |name: &str, from: u64, detail: Value| {
            let dur = us(now.saturating_sub(from));
            json!({ "name": name, "ph": "X", "pid": pid, "tid": thread, "ts": us(from),
                    "dur": dur, "args": detail })
        };
        let batch = |ph: &str, name: String| {
            json!({ "name": name, "cat": "batch", "ph": ph, "pid": pid, "tid": thread,
                    "ts": us(now), "id": format!("{}/{}", args[0], args[1]) })
        };
        let whole = || format!("batch {}/{}", args[0], args[1]);
        match event.probe {
            "verify_start" | "fsync_start" | "execute_start" => {
                open.insert((thread, event.probe), now);
            }
            "verify_end" => {
                let detail = json!({ "signatures": args[0], "urgent": args[1], "valid": args[2] });
                let from = open.remove(&(thread, "verify_start"));
                rows.extend(from.map(|from| slice("verify", from, detail)));
            }
            "fsync_end" => {
                let detail = json!({ "turns": args[0], "records": args[1] });
                let from = open.remove(&(thread, "fsync_start"));
                rows.extend(from.map(|from| slice("fdatasync", from, detail)));
            }
            "state_written" => {
                let detail = json!({ "height": args[0] });
                let from = open.remove(&(thread, "execute_start"));
                rows.extend(from.map(|from| slice("execute", from, detail)));
            }
            "core_turn" => {
                let detail = json!({ "inputs": args[0], "records": args[1], "sends": args[2] });
                rows.push(slice("turn", now.saturating_sub(args[3]), detail));
            }
            "batch_received" | "batch_sealed" => rows.push(batch("b", whole())),
            "batch_verified" => rows.push(batch("n", "verified".into())),
            "batch_stored" => rows.push(batch("n", "stored".into())),
            "batch_acknowledged" => rows.push(batch("n", "acknowledged".into())),
            "lane_committed" => {
                let last = args[3].min(args[2].saturating_add(BATCHES_A_BLOCK_MAX));
                for seq in args[2]..=last {
                    let id = format!("{}/{seq}", args[1]);
                    rows.push(
                        json!({ "name": format!("batch {id}"), "cat": "batch", "ph": "e",
                        "pid": pid, "tid": thread, "ts": us(now), "id": id }),
                    );
                }
            }
            "round_entered" | "proposed" | "voted" | "qc_formed" | "timed_out" | "committed"
            | "queue_full" | "packets_lost" => {
                rows.push(
                    json!({ "name": format!("{} {}", event.probe, args[0]), "ph": "i",
                    "s": "t", "pid": pid, "tid": thread, "ts": us(now) }),
                );
            }
            _ => {}
        }
    }
    for (thread, name) in threads {
        rows.push(
            json!({ "name": "thread_name", "ph": "M", "pid": pid, "tid": thread,
            "args": { "name": name } }),
        );
    }
    rows.push(json!({ "name": "process_name", "ph": "M", "pid": pid,
        "args": { "name": "falconet validator" } }));
    json!({ "displayTimeUnit": "ns", "traceEvents": rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_becomes_a_slice_and_a_lone_end_nothing() {
        let event = |time_ns, probe| Event {
            time_ns,
            probe,
            thread: 5,
            args: [3, 2, 0, 0, 0, 0],
            comm: "log".into(),
        };
        let events = [
            event(4000, "fsync_end"),
            event(1000, "fsync_start"),
            event(5000, "fsync_end"),
        ];
        let trace = trace(1, &events);
        let slices: Vec<&Value> = trace["traceEvents"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|row| row["ph"] == "X")
            .collect();
        assert_eq!(slices.len(), 1);
        assert_eq!(
            (&slices[0]["ts"], &slices[0]["dur"]),
            (&json!(1.0), &json!(3.0))
        );
    }
}
