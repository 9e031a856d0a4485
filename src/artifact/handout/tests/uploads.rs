//! Uploads that fail, that nobody takes, and of files that change or never end.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_retried_and_told() {
    let stage = Stage::new("shaky").await;
    stage.watch(&["a"], None).await;
    stage.write("a/x", "x");
    assert_eq!(stage.handout.settle().await, []);
    assert_eq!(stage.names().len(), 3);
    for (behaviour, attempts, says) in
        [("forbidden", 1, "403 Forbidden"), ("broken", 3, "500 Internal Server Error"), ("away", 1, "302 Found")]
    {
        let stage = Stage::new(behaviour).await;
        stage.watch(&["a"], None).await;
        stage.write("a/x", "x");
        let failures = stage.handout.settle().await;
        assert_eq!((failures.len(), stage.names().len()), (1, attempts), "{behaviour}: {failures:?}");
        assert_eq!(failures[0].path, stage.path("a/x").display().to_string());
        assert!(failures[0].error.contains(says) && !failures[0].error.contains("http"), "{failures:?}");
        assert_eq!(stage.handout.settle().await, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_to_take_it_is_told() {
    let handout = handout_with(limits(), None);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().display().to_string();
    handout.watch(&Watch { directories: vec![directory.clone()], ignore: None }).await.unwrap();
    fs::write(home.path().join("x"), "x").unwrap();
    let mut announcements = handout.announcements();
    let settling = tokio::spawn({
        let handout = handout.clone();
        async move { handout.settle().await }
    });
    let announcement = announcements.next().await.unwrap();
    assert_eq!(announcement, Announcement { filename: "x".into(), filepath: format!("{directory}/x"), size: 1 });
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", nobody.local_addr().unwrap());
    drop(nobody);
    for path in ["/etc/passwd", "x", ""] {
        assert_eq!(handout.answer(path, Secret::new(url.clone()), "a/b"), Err(Refused::NotAnnounced));
    }
    assert_eq!(handout.answer(&announcement.filepath, Secret::new(url.clone()), "a/b"), Ok(()));
    assert_eq!(handout.answer(&announcement.filepath, Secret::new(url), "a/b"), Err(Refused::AnsweredAlready));
    let failures = settling.await.unwrap();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].error.contains("connect") && !failures[0].error.contains("token"), "{failures:?}");

    // Without an answer the wait is bounded, the next reader is told again, and a late answer is good.
    fs::write(home.path().join("y"), "y").unwrap();
    let start = Instant::now();
    let failures = handout.settle().await;
    assert_eq!(failures.len(), 1);
    assert!(failures[0].error.contains("nobody answered"), "{failures:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(announcements.next().await.unwrap().filename, "y");
    assert_eq!(handout.announcements().next().await.unwrap().filename, "y");
    assert_eq!(handout.settle().await, []);
    let target = Target::start().await;
    let late = Secret::new(format!("{}/ok/y", target.base));
    assert_eq!(handout.answer(&format!("{directory}/y"), late, ""), Ok(()));
    assert_eq!(handout.drain().await, []);
    drop(handout);
    assert_eq!(announcements.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_while_it_is_sent_is_sent_anew() {
    let stage = Stage::new("slow").await;
    stage.watch(&["a"], None).await;
    stage.write("a/x", &"1".repeat(8 << 20));
    let settling = tokio::spawn({
        let handout = stage.handout.clone();
        async move { handout.settle().await }
    });
    stage.until("it is announced", |stage| !stage.told.lock().unwrap().is_empty()).await;
    OpenOptions::new().append(true).open(stage.path("a/x")).unwrap().write_all(b"2").unwrap();
    assert_eq!(settling.await.unwrap(), []);
    assert_eq!(stage.handout.settle().await, []);
    let (_, last) = stage.target.got().into_iter().max_by_key(|(_, body)| body.len()).unwrap();
    assert_eq!(last.len(), (8 << 20) + 1);
    assert_eq!(stage.told.lock().unwrap().len(), 2);
}

/// A program that writes for ever does not hold up its request for ever, and is not waited for a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_never_ends_is_told_and_let_go() {
    let limits = HandoutLimits { whole: Duration::from_secs(1), ..limits() };
    let stage = Stage::with("ok", limits, None).await;
    stage.watch(&["a"], None).await;
    let mut file = File::create(stage.path("a/log")).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    file.write_all(b"first").unwrap();
    let writer = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            file.write_all(b"more").unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let failures = stage.handout.settle().await;
    assert_eq!(failures.len(), 1);
    assert!(failures[0].error.contains("still being written"), "{failures:?}");
    let start = Instant::now();
    assert_eq!(stage.handout.settle().await, []);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(stage.handout.settle().await, []);
    assert_eq!(stage.names(), ["a/log"]);
}
