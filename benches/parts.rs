//! What the parts of a turn's way cost by themselves: `cargo bench --bench parts`. For whoever changes one of them: numbers of
//! one machine are compared with numbers of that machine.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends with a panic")]

use criterion::{BatchSize, Criterion, Throughput};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use turnhost::inside;
use turnhost::{
    Acknowledge, Batch, DiskStore, Done, Entry, Event, Keep, Redactor, Secret, Seq, SessionId, Store, StoreError,
    TurnId, What,
};

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(30)
        .configure_from_args();
    redaction(&mut criterion);
    parsing(&mut criterion);
    lines(&mut criterion);
    log(&mut criterion);
    store(&mut criterion);
    criterion.final_summary();
}

/// A text of 64 KiB with a secret in each of its lines, whole and as deltas.
fn redaction(criterion: &mut Criterion) {
    let secrets: Vec<Secret> = (0..20).map(|n| Secret::new(format!("sk-{n:04}-{}", "x1y2".repeat(8)))).collect();
    let redactor = Redactor::new(&secrets);
    let plain = "what an agent says is mostly words, some of them long. ".repeat(1200);
    let telling = format!("the key is {} as I said, and that was that. ", secrets[7].expose()).repeat(740);
    let mut group = criterion.benchmark_group("redaction");
    for (name, text) in [("nothing", &plain), ("a secret a line", &telling)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group
            .bench_function(format!("whole, {name}"), |bench| bench.iter(|| black_box(redactor.text(black_box(text)))));
        group.bench_function(format!("deltas of 24 bytes, {name}"), |bench| {
            bench.iter(|| {
                let (mut stream, mut out) = (redactor.stream(), String::with_capacity(text.len()));
                for piece in text.as_bytes().chunks(24) {
                    stream.push_into(std::str::from_utf8(piece).unwrap(), &mut out);
                }
                out.push_str(&stream.finish());
                black_box(out)
            });
        });
    }
    group.finish();
}

/// Requests of 1 and 100 KiB.
fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parsing");
    for size in [1 << 10, 100 << 10] {
        let words = "word \"quoted\" und ein \u{fc}mlaut\n".repeat(size / 34);
        let text = serde_json::to_string(&words).unwrap();
        let state = serde_json::json!({"v": 1, "turn": 7, "items": ["a", "b"]});
        let advance = format!(r#"{{"input":{text},"session_id":"s","message_id":"m","state":{state}}}"#);
        let message = format!(
            r#"{{"message_type":"invocation_message","user_prompt":{text},"system_prompt":"s","model":"m","output_format_json_schema_str":null}}"#
        );
        assert!(inside::advance(&advance) && inside::message(&message), "they are requests");
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("advance, {} KiB", size >> 10), |bench| {
            bench.iter(|| inside::advance(black_box(&advance)));
        });
        group.bench_function(format!("invocation_message, {} KiB", size >> 10), |bench| {
            bench.iter(|| inside::message(black_box(&message)));
        });
    }
    group.finish();
}

/// What handlers write: many short lines, few long ones, noise.
fn lines(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let delta = "{\"type\":\"delta\",\"id\":\"t1\",\"text\":\"some words of an agent\"}\n";
    let long = format!("{{\"type\":\"text\",\"text\":\"{}\"}}\n", "x".repeat(1 << 20));
    let noise = "a line of log, as programs write them\n";
    let mut group = criterion.benchmark_group("lines");
    for (name, said) in
        [("deltas", delta.repeat(10_000)), ("1 MiB each", long.repeat(4)), ("log", noise.repeat(10_000))]
    {
        group.throughput(Throughput::Bytes(said.len() as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| runtime.block_on(inside::lines(black_box(said.as_bytes()))));
        });
    }
    group.finish();
}

/// A thousand deltas through a session's log in memory, with a reader.
fn log(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let _inside = runtime.enter();
    let mut log = inside::Log::begin();
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("a thousand deltas and their reader", |bench| bench.iter(|| assert_eq!(log.say(1000), 1000)));
    group.finish();
}

/// Told when a batch is kept.
struct Kept(std::sync::mpsc::Sender<()>);

impl Acknowledge for Kept {
    fn acknowledged(self: Arc<Self>, _last: Seq, _bytes: usize, result: Result<(), StoreError>) {
        result.unwrap();
        self.0.send(()).unwrap();
    }
}

/// Batches of 1 and 64 entries, kept one after the other, in a folder on the disk of the build.
fn store(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let _inside = runtime.enter();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = DiskStore::open(folder.path(), Keep::default()).unwrap();
    let (kept, told) = channel();
    let kept = Arc::new(Kept(kept));
    let (session, turn) = (SessionId::kept("s"), TurnId::from_drawn("t".to_owned()));
    let mut last = 0;
    let mut group = criterion.benchmark_group("store");
    for size in [1, 64] {
        group.throughput(Throughput::Elements(size));
        group.bench_function(format!("a batch of {size}"), |bench| {
            let batch = |from: u64| {
                let entry = |n: u64| {
                    let what = What::Said(Event::TextDelta { block: None, text: "some words of an agent".to_owned() });
                    Arc::new(Entry { seq: Seq(from + n), at_ms: 1, turn: turn.clone(), what })
                };
                Batch { session: session.clone(), entries: (1..=size).map(entry).collect() }
            };
            let prepare = || {
                let batch = batch(last);
                last += size;
                batch
            };
            let keep = |batch: Batch| {
                let done = Done::new(kept.clone(), batch.entries.last().unwrap().seq, 0);
                store.append(batch, done);
                told.recv().unwrap();
            };
            bench.iter_batched(prepare, keep, BatchSize::PerIteration);
        });
    }
    group.finish();
}
