use super::*;

fn round(outcome: &Outcome) -> Outcome {
    let mut record = Vec::new();
    write_outcome(&mut record, outcome);
    read_outcome(&record).unwrap()
}

fn end() -> CommandEnd {
    CommandEnd {
        command: "echo \"grüezi\"".into(),
        exit_code: -1,
        cut: Some(CutBy::Signal(9)),
        took: Duration::from_micros(1234),
        stdout: "a\n\u{0}b".into(),
        stdout_bytes: 5,
        stdout_cut: true,
        stdout_tail: "t".into(),
        stderr_tail: "e".into(),
    }
}

#[test]
fn every_outcome_comes_back_as_it_was() {
    let raw = |text: &str| RawJson::from_valid(text);
    let fault = Fault {
        detail: Some("d".into()),
        metadata: Some(raw(r#"{"n":1.0e3}"#)),
        process: Some(ProcessEnd { exit_code: None, signal: Some(9), stderr_tail: "why\n".into() }),
        command: Some(Box::new(end())),
        answered: Some(Box::new((Answer::Text("before".into()), Some(raw(r#"{"a":[]}"#))))),
        retryable: true,
        ..Fault::new(FaultCode::HandlerExited, "it \"ended\"")
    };
    let endings = [
        Ending::Answered(Answer::Text("grüezi \u{1F44B}\n".into())),
        Ending::Answered(Answer::Structured(raw(r#"{"z":1.0e3,"a":12345678901234567890123}"#))),
        Ending::Answered(Answer::Commands(vec![end(), CommandEnd { cut: Some(CutBy::Timeout), ..end() }])),
        Ending::Failed(fault),
        Ending::Cancelled(CancelReason::Disconnected),
        Ending::TimedOut { limit: Limit::Request, after: Duration::from_secs(2), partial: "half".into() },
        Ending::Interrupted,
    ];
    for ending in endings {
        for state in [StateChange::Keep, StateChange::Clear, StateChange::Set(raw(r#""\u00e4""#))] {
            let outcome = Outcome {
                state,
                metadata: Some(raw("{}")),
                artifact_failures: vec![ArtifactFailure { path: "/a".into(), error: "no".into() }],
                tools: vec![ToolCall {
                    id: "1".into(),
                    name: "shell".into(),
                    input: raw("null"),
                    result: Some(ToolResult { output: "x".into(), is_error: true }),
                }],
                ..Outcome::new(ending.clone())
            };
            assert_eq!(round(&outcome), outcome);
        }
    }
}
