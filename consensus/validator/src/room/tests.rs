use super::*;

fn intake(room_bytes: u64) -> Intake {
    Intake {
        room_bytes,
        outbid: Some(10),
        retry_after_ms: 50,
    }
}

/// `count` transactions that take 1,000 bytes each.
fn txs(count: usize, fee: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..count).map(move |_| (998, fee))
}

fn taken(answers: &[Option<u32>]) -> usize {
    answers.iter().filter(|answer| answer.is_none()).count()
}

const A: Option<u64> = None;

fn conn(number: u64) -> Option<u64> {
    Some(number)
}

#[test]
fn room_is_given_once_and_comes_back_with_the_reservation() {
    let room = Room::new(intake(10_000));
    let (held, answers) = room.reserve(conn(1), txs(6, 0));
    assert_eq!(taken(&answers), 6);
    let (rest, answers) = room.reserve(conn(2), txs(6, 0));
    assert_eq!(taken(&answers), 4, "what is left");
    drop(held);
    let (_again, answers) = room.reserve(conn(3), txs(8, 0));
    assert_eq!(taken(&answers), 6);
    drop(rest);
}

#[test]
fn no_connection_takes_all_of_the_room() {
    let room = Room::new(intake(40_000));
    let (_first, answers) = room.reserve(conn(1), txs(100, 0));
    assert_eq!(taken(&answers), 30);
    let (_more, answers) = room.reserve(conn(1), txs(1, 0));
    assert_eq!(taken(&answers), 0);
    let (_second, answers) = room.reserve(conn(2), txs(100, 0));
    assert_eq!(taken(&answers), 10);
}

#[test]
fn claimed_fees_get_past_a_full_queue_within_bounds() {
    let room = Room::new(intake(0));
    assert_eq!(
        taken(&room.reserve(conn(1), txs(9, 10)).1),
        0,
        "no more than the lowest"
    );
    let (_bids, answers) = room.reserve(conn(1), txs(10_000, u64::MAX));
    let most = (BIDS_BYTES_MAX / 4 * 3 / 1_000) as usize;
    assert_eq!(taken(&answers), most, "a forger's share");
    let (_others, answers) = room.reserve(conn(2), txs(10_000, 11));
    assert_eq!(taken(&answers), (BIDS_BYTES_MAX / 1_000) as usize - most);
    let stopped = Intake {
        outbid: None,
        ..intake(0)
    };
    let room = Room::new(stopped);
    assert_eq!(taken(&room.reserve(conn(1), txs(1, u64::MAX)).1), 0);
}

#[test]
fn a_failed_stage_gives_everything_back() {
    let room = Room::new(intake(4_000));
    for _ in 0..100 {
        let (held, answers) = room.reserve(A, txs(3, 0));
        assert_eq!(taken(&answers), 3);
        drop(held);
    }
    assert!(room.0.lock().by_conn.is_empty());
    assert_eq!(room.0.lock().reserved, 0);
}

/// So many wait outside and come back when told; the lane takes so many in a step. What comes in
/// a step once it has settled.
fn settled(outside: usize, admitted_a_step: usize) -> f64 {
    let room = Room::new(intake(0));
    let mut due: Vec<u64> = vec![0; outside];
    let (mut offers, mut steps) = (0u64, 0u64);
    for step in 0..600u64 {
        let now_us = step * HINT_STEP_US;
        let mut left = admitted_a_step;
        for at_us in &mut due {
            if *at_us > now_us {
                continue;
            }
            if step >= 300 {
                offers += 1;
            }
            // Whoever is admitted is replaced by another that comes at once.
            if left > 0 {
                left -= 1;
                continue;
            }
            let (_none, answers) = room.reserve(conn(1), [(998, 0)].into_iter());
            let ms = answers[0].expect("there is no room");
            *at_us = now_us + u64::from(ms) * 1_000;
        }
        steps += u64::from(step >= 300);
        let admitted = (admitted_a_step - left) as u64;
        room.publish(now_us, intake(0), admitted);
    }
    offers as f64 / steps as f64
}

#[test]
fn those_refused_come_back_at_the_rate_at_which_there_is_room() {
    for (outside, rate) in [(2_000, 100), (4_000, 100), (3_000, 400), (300, 200)] {
        let offers = settled(outside, rate);
        let factor = offers / rate as f64;
        assert!((1.0..3.0).contains(&factor), "{outside} {rate}: {factor}");
    }
}

#[test]
fn the_time_to_come_back_is_spread_and_bounded() {
    let room = Room::new(intake(0));
    for step in 1..100 {
        drop(room.reserve(conn(1), txs(10, 0)));
        room.publish(step * HINT_STEP_US, intake(0), 1);
    }
    let (_, answers) = room.reserve(conn(1), txs(1_000, 0));
    let times: Vec<u64> = answers.iter().map(|ms| ms.expect("full").into()).collect();
    let (min, max) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*min >= HINT_MS_MAX * 3 / 4 && *max <= HINT_MS_MAX * 5 / 4);
    assert!(max - min > HINT_MS_MAX / 3, "{min} to {max}");
    for step in 100..200 {
        room.publish(step * HINT_STEP_US, intake(1 << 20), 100);
    }
    assert_eq!(
        room.0.lock().hint.ms,
        50,
        "what the lane says when nobody is refused"
    );
    let (_, mine) = room.reserve(conn(1), [(2 << 20, 0)].into_iter());
    assert!(mine[0].expect("too large") < 50);
}
