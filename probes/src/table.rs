//! The table: every probe, its arguments, when it fires.

use crate::macros::probes;

probes! {
    "stoq-net", "A datagram of a known connection was received.",
    datagram_received(conn: "connection", bytes: "UDP payload");

    "stoq-net", "Datagrams were handed to the kernel's send queue in one piece.",
    datagrams_sent(conn: "connection", bytes: "UDP payload of all", datagrams: "how many");

    "stoq-net", "QUIC declared packets of a connection lost; their frames are sent again. Looked at every 10 ms at most.",
    packets_lost(
        conn: "connection",
        packets: "lost since this probe fired last",
        rtt_us: "smoothed round-trip time",
        cwnd_bytes: "congestion window after it",
    );

    "stoq-net", "A frame was received whole and handed to the inbound stage.",
    frame_received(
        conn: "connection",
        kind: "frame kind, see docs/wire-format.md",
        bytes: "payload",
        frame: "address of the payload: the frame's id until its stage is done with it",
    );

    "inbound", "A frame was parsed and goes to its stage.",
    frame_dispatched(
        conn: "connection",
        validator: "its validator; -1 for a client",
        kind: "frame kind",
        bytes: "payload",
        frame: "address of the payload",
    );

    "verify", "A client's submission was taken up.",
    submission_received(
        conn: "connection; -1 for the HTTP API",
        tag: "the client's tag",
        txs: "transactions",
    );

    "verify", "A batch of a peer was parsed and its owner's signature checked.",
    batch_received(
        lane: "lane",
        seq: "position in the lane",
        hash: "batch",
        txs: "transactions",
        frame: "address of the payload",
        from: "the connection's validator",
    );

    "verify", "Verification of signatures begins.",
    verify_start(
        signatures: "in this piece, or messages when urgent",
        urgent: "1 for consensus messages",
    );

    "verify", "Verification ends.",
    verify_end(
        signatures: "as in verify_start",
        urgent: "1 for consensus messages",
        valid: "how many passed",
    );

    "verify", "All transactions of a batch were verified; it goes to the core.",
    batch_verified(lane: "lane", seq: "position in the lane", hash: "batch", valid: "transactions that passed");

    "verify", "All transactions of a submission were verified; it goes to the core.",
    submission_verified(
        conn: "connection; -1 for the HTTP API",
        tag: "the client's tag",
        passed: "transactions that may enter the lane",
        refused: "others",
    );

    "core", "The core's mempool decided on a transaction (admission).",
    tx_admitted(
        tx: "transaction",
        admission: "0 accepted, 1 duplicate, 2 busy",
        conn: "connection of its submitter; -1 for the HTTP API",
    );

    "core", "An own batch was sealed.",
    batch_sealed(
        lane: "lane: this validator",
        seq: "position in the lane",
        hash: "batch",
        txs: "transactions",
        bytes: "whole batch",
    );

    "core", "A batch of a peer was accepted and goes to the log.",
    batch_accepted(lane: "lane", seq: "position in the lane", hash: "batch");

    "core", "A proposal arrived, verified.",
    header_received(
        round: "round",
        height: "height",
        block: "block",
        from: "the connection's validator",
    );

    "core", "A vote arrived, verified.",
    vote_received(round: "round", block: "block", voter: "who voted");

    "core", "A timeout arrived, verified.",
    timeout_received(round: "round given up", author: "who gave up", hqc_round: "its highest QC");

    "core", "This validator entered a round.",
    round_entered(round: "round", leader: "who leads it", by_tc: "1 when the round before was given up");

    "core", "This validator proposed. Once a round.",
    proposed(round: "round", height: "height", block: "block");

    "core", "This validator voted. Once a round.",
    voted(round: "round", block: "block");

    "core", "A quorum of votes became a certificate.",
    qc_formed(round: "round of the highest QC now held", block: "its block");

    "core", "This validator gave up on a round. Once a round.",
    timed_out(
        round: "round",
        leader: "who led it",
        cause: "0 no proposal arrived, 1 proposal not votable, 2 voted but no quorum of votes",
        hqc_round: "highest QC held",
    );

    "core", "A block is final.",
    committed(height: "height", round: "round", block: "block");

    "core", "A final block orders these batches of one lane. After `committed`, a lane that advances.",
    lane_committed(
        height: "height",
        lane: "lane",
        first: "first batch",
        last: "last batch",
    );

    "core", "A turn of the core ended: its inputs share one turn of the log.",
    core_turn(
        inputs: "inputs handled",
        records: "records for the log",
        sends: "messages to send",
        ns: "time that the turn took",
    );

    "log", "Records are written; fdatasync begins.",
    fsync_start(turns: "turns that share it", records: "records written");

    "log", "fdatasync returned.",
    fsync_end(turns: "turns that share it", records: "records written", failed: "1 when it failed");

    "log", "A batch is durable.",
    batch_stored(lane: "lane", seq: "position in the lane", hash: "batch", bytes: "whole batch");

    "log", "A message that had waited for the disk leaves.",
    message_released(
        kind: "frame kind",
        to: "receiving validator; -1 for all",
    );

    "log", "A batch is acknowledged to all validators, with all before it in its lane.",
    batch_acknowledged(lane: "lane", seq: "position in the lane", hash: "batch");

    "log", "The results of a submission leave for its client.",
    submission_answered(conn: "connection; -1 for the HTTP API", tag: "the client's tag", txs: "transactions");

    "any", "A frame was queued for a connection.",
    frame_queued(conn: "connection", kind: "frame kind", bytes: "payload");

    "execute", "Execution of a block begins.",
    execute_start(height: "height", block: "block", batches: "batches");

    "execute", "The application has executed a block; its changes are written next.",
    executed(height: "height", txs: "receipts", changes: "accounts changed");

    "execute", "A block's changes are in the state database; receipts go out next.",
    state_written(height: "height", block: "block");

    "execute", "A transaction submitted to this validator was executed.",
    tx_finished(
        tx: "transaction",
        lane: "lane of its batch",
        seq: "batch",
        height: "block",
        outcome: "0 executed; else see docs/wire-format.md",
        conn: "connection of its submitter; -1 for the HTTP API",
    );

    "any", "A queue was full: its sender waits, or gives up (history, send).",
    queue_full(queue: "which, see below", limit: "its limit in entries; 0 when it is in bytes");

    "any", "Depth of a queue, seen by the stage that empties it.",
    queue_depth(queue: "which, see below", depth: "entries that wait");
}
