//! What is written is what is read.

use super::*;
use crate::model::RawJson;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,12}", "[\\x00-\\x1f\"\\\\\u{2028}😀é]{0,8}"]
}

fn json() -> impl Strategy<Value = RawJson> {
    let fixed = ["null", "1e400", "{ \"a\" : [1 , 2.50] }", "\"\\ud800\"", "[]", "\"\\u0041/\"", "-0.0"];
    prop_oneof![
        prop::sample::select(fixed.map(str::to_owned).to_vec()),
        text().prop_map(|text| crate::json::string(&text))
    ]
    .prop_map(RawJson::from_valid)
}

pub fn event() -> impl Strategy<Value = Event> {
    let block = || prop::option::of(text().prop_map(BlockId::from));
    let cost = prop::option::of(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO);
    let few = prop::sample::select(vec!["", "ls", "make test"]);
    prop_oneof![
        (block(), prop::collection::vec(text(), 0..4)).prop_map(|(block, parts)| Event::Text { block, parts }),
        (block(), text()).prop_map(|(block, text)| Event::TextDelta { block, text }),
        text().prop_map(|text| Event::Thinking { text }),
        (text(), text(), json()).prop_map(|(id, name, input)| Event::ToolUse { id, name, input }),
        (text(), text(), any::<bool>(), any::<Option<i32>>())
            .prop_map(|(id, output, is_error, exit_code)| { Event::ToolResult { id, output, is_error, exit_code } }),
        (text(), prop::option::of(json())).prop_map(|(kind, detail)| Event::Progress { kind, detail }),
        text().prop_map(|block| Event::Discarded { block: block.into() }),
        (any::<[u64; 4]>(), cost).prop_map(|(n, cost_usd)| {
            let [input_tokens, output_tokens, cached_tokens, reasoning_tokens] = n;
            Event::Usage(Usage { input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd })
        }),
        (any::<bool>(), text(), few).prop_map(|(first, text, command)| Event::CommandOutput {
            stream: if first { OutputStream::Stdout } else { OutputStream::Stderr },
            text,
            command: command.into(),
        }),
        (text(), any::<u64>()).prop_map(|(path, size)| Event::Artifact { path, size }),
        (text(), prop::option::of(text())).prop_map(|(text, field)| Event::Warning { text, field }),
    ]
}

proptest! {
    #[test]
    fn every_event_comes_back_exactly(events in prop::collection::vec(event(), 1..20)) {
        let (mut writer, mut reader) = (SeriesWriter::default(), SeriesReader::default());
        for event in events {
            let mut record = Vec::new();
            writer.write(&mut record, &event);
            prop_assert_eq!(reader.read(&record), Ok(event));
        }
    }

    #[test]
    fn other_text_is_an_error_and_never_a_panic(text in ".{0,40}") {
        prop_assert!(SeriesReader::default().read(text.as_bytes()).is_err());
    }
}

#[test]
fn a_command_is_written_once_and_shared() {
    let output = |text: &str, command: &str| Event::CommandOutput {
        stream: OutputStream::Stdout,
        text: text.to_owned(),
        command: command.into(),
    };
    let (mut writer, mut reader) = (SeriesWriter::default(), SeriesReader::default());
    let mut commands = Vec::new();
    for event in [output("a", "find /"), output("b", "find /"), output("c", "")] {
        let mut record = Vec::new();
        writer.write(&mut record, &event);
        assert_eq!(record.windows(4).any(|four| four == b"find"), commands.is_empty());
        let Ok(Event::CommandOutput { command, .. }) = reader.read(&record) else { panic!("not read") };
        commands.push(command);
    }
    assert!(Arc::ptr_eq(&commands[0], &commands[1]));
    assert_eq!(&*commands[2], "");
}

#[test]
fn an_error_says_what_is_wrong_and_not_what_was_there() {
    let error = SeriesReader::default().read(br#"{"type":"text","parts":"sesame"}"#).unwrap_err().to_string();
    assert!(error.starts_with("not an event record: line 1, column") && !error.contains("sesame"), "{error}");
    let error = SeriesReader::default().read(br#"{"type":"thinking"}"#).unwrap_err().to_string();
    assert_eq!(error, "not an event record: `text` is missing");
}
