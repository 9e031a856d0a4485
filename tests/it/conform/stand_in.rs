//! A server with a defect: it hands everything on to the real one, and changes what the defect says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// A text in place of another; `None`: the connection ends here.
type Frames = Box<dyn Fn(&str) -> Option<Vec<String>> + Send + Sync>;
/// Method, path, status, body and cursor of an answer, the last three to be changed.
type Http = Box<dyn Fn(&str, &str, &mut u16, &mut Vec<u8>, &mut Option<String>) + Send + Sync>;

/// What is changed.
pub struct Defect {
    from_client: Frames,
    from_server: Frames,
    http: Http,
}

impl Default for Defect {
    fn default() -> Self {
        let same = || Box::new(|text: &str| Some(vec![text.to_owned()]));
        Self { from_client: same(), from_server: same(), http: Box::new(|_, _, _, _, _| {}) }
    }
}

impl Defect {
    fn from_server(change: impl Fn(&str) -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { from_server: Box::new(move |text| Some(change(text))), ..Self::default() }
    }

    fn replacing(from: &'static str, to: &'static str) -> Self {
        Self::from_server(move |text| vec![text.replace(from, to)])
    }

    /// Changes frames of one type.
    fn of_frames(kind: &'static str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::from_server(move |text| {
            let mut frame: Value = serde_json::from_str(text).unwrap();
            if frame["message_type"] != kind && frame["type"] != kind {
                return vec![text.to_owned()];
            }
            change(&mut frame);
            vec![frame.to_string()]
        })
    }

    fn from_client(change: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { from_client: Box::new(move |text| Some(vec![change(text)?])), ..Self::default() }
    }

    /// Changes the text of answers to a method and the end of a path.
    fn of_http(method: &'static str, end: &'static str, from: &'static str, to: &'static str) -> Self {
        let http: Http = Box::new(move |asked, path, _, body, _| {
            if asked == method && path.split('?').next().unwrap().ends_with(end) {
                *body = String::from_utf8(body.clone()).unwrap().replace(from, to).into_bytes();
            }
        });
        Self { http, ..Self::default() }
    }

    /// Changes lines of logs wherever they are shown; both texts are of one length.
    fn of_lines(from: &'static str, to: &'static str) -> Self {
        assert_eq!(from.len(), to.len());
        let change = move |text: &str| text.replace(from, to);
        let http: Http = Box::new(move |_, path, _, body, _| {
            if path.contains("/log") {
                *body = change(&String::from_utf8(body.clone()).unwrap()).into_bytes();
            }
        });
        let from_server = move |text: &str| {
            let mut frame: Value = serde_json::from_str(text).unwrap();
            let data = frame["data"].as_str().map(str::to_owned);
            match (frame["type"].as_str(), data) {
                (Some("replay"), Some(data)) => {
                    let bytes = STANDARD.decode(data).unwrap();
                    frame["data"] = STANDARD.encode(change(&String::from_utf8(bytes).unwrap())).into();
                }
                (Some("stdout"), Some(data)) => frame["data"] = change(&data).into(),
                _ => {}
            }
            Some(vec![frame.to_string()])
        };
        Self { http, from_server: Box::new(from_server), ..Self::default() }
    }
}

/// Defects of RuntimeUse, each with the check that finds it.
pub fn runtimeuse() -> Vec<(&'static str, Defect)> {
    let twice = |text: &str| {
        let n = if text.starts_with(r#"{"message_type":"result_message""#) { 2 } else { 1 };
        vec![text.to_owned(); n]
    };
    vec![
        ("runtimeuse-first-result", Defect::from_server(twice)),
        ("runtimeuse-messages", Defect::of_frames("result_message", |frame| frame["data"]["extra"] = 1.into())),
        (
            "runtimeuse-null-fields",
            Defect::from_client(|text| {
                let mut frame: Value = serde_json::from_str(text).unwrap_or_default();
                if frame.get("agent_env") != Some(&Value::Null) {
                    return Some(text.to_owned());
                }
                frame["user_prompt"] = "@fail agent_env must be an object".into();
                Some(frame.to_string())
            }),
        ),
        ("runtimeuse-pre-command", Defect::replacing("command failed with exit code: 3", "command failed: 3")),
        ("runtimeuse-bad-frame", Defect::from_client(|text| (text != "17").then(|| text.to_owned()))),
        ("runtimeuse-command", Defect::replacing(r#""stream":"stderr""#, r#""stream":"stdout""#)),
        (
            "runtimeuse-command-fails",
            Defect::of_frames("command_execution_result_message", |frame| {
                for result in frame["results"].as_array_mut().unwrap() {
                    if result["exit_code"] == 2 {
                        result["stdout"] = "lost".into();
                    }
                }
            }),
        ),
        (
            "runtimeuse-command-env",
            Defect::from_client(|text| Some(text.replace(r#""env":{"CONFORM":"a b"}"#, r#""env":null"#))),
        ),
        (
            "runtimeuse-redacted",
            Defect::from_client(|text| Some(text.replace(r#"_redact":["conform-secret-1"]"#, r#"_redact":[]"#))),
        ),
        ("runtimeuse-cancel", Defect::replacing("Request cancelled", "cancelled")),
        ("runtimeuse-in-flight", Defect::replacing("Received request while another is in flight!", "busy")),
        ("runtimeuse-big-message", Defect::from_client(|text| (text.len() < 1 << 20).then(|| text.to_owned()))),
        (
            "runtimeuse-big-output",
            Defect::from_server(|text| {
                let is_output = text.starts_with(r#"{"message_type":"command_output_message""#);
                if is_output && text.len() > 10_000 { vec![] } else { vec![text.to_owned()] }
            }),
        ),
        (
            "runtimeuse-artifact",
            Defect::of_frames("artifact_upload_request_message", |frame| frame["filepath"] = "file.txt".into()),
        ),
        ("runtimeuse-end-session", Defect::replacing("end_session_confirm_message", "end_session_message")),
    ]
}

/// Defects of agentruntime's protocol, each with the check that finds it.
pub fn sessions() -> Vec<(&'static str, Defect)> {
    let cursor: Http = Box::new(|_, _, _, _, cursor| {
        if let Some(cursor) = cursor.as_mut().filter(|cursor| *cursor != "0") {
            *cursor = (cursor.parse::<u64>().unwrap() - 1).to_string();
        }
    });
    vec![
        ("sessions-health", Defect::of_http("GET", "/health", r#""runtimes""#, r#""kinds""#)),
        ("sessions-not-found", Defect::of_http("GET", "/log", "log file not found", "no log")),
        ("sessions-validation", Defect::of_http("POST", "/sessions", "agent is required", "no agent")),
        ("sessions-create", Defect::of_http("POST", "/sessions", "ws://127.0.0.1", "ws://localhost")),
        ("sessions-log-lines", Defect::of_lines(r#""timestamp""#, r#""timestomp""#)),
        ("sessions-log-end", Defect::of_lines(r#""data":{"code":0}"#, r#""data":{"code":9}"#)),
        ("sessions-log-cursor", Defect { http: cursor, ..Defect::default() }),
        ("sessions-shown", Defect::of_http("GET", "/info", "completed", "running")),
        ("sessions-callers-id", Defect::of_http("POST", "/sessions", "session_id already exists", "exists")),
        (
            "sessions-replay",
            Defect::of_frames("exit", |frame| {
                if frame["exit_code"] == 0 {
                    *frame = json!({"type": "exit"});
                }
            }),
        ),
        ("sessions-live", Defect::of_lines(r#""status":"success""#, r#""status":"succeed""#)),
        ("sessions-bad-frame", Defect::replacing("unknown frame type", "unknown type")),
        (
            "sessions-delete",
            Defect {
                http: Box::new(|method, _, status, body, _| {
                    if method == "DELETE" && *status == 200 {
                        *body = String::from_utf8(body.clone()).unwrap().replace("failed", "completed").into_bytes();
                    }
                }),
                ..Defect::default()
            },
        ),
    ]
}

/// It ends with the test.
pub struct StandIn {
    pub port: u16,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl StandIn {
    pub async fn before(real: u16, defect: Defect) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let defect = Arc::new(defect);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(hand_on(stream, real, defect.clone()));
            }
        });
        Self { port, accepting }
    }
}

async fn hand_on(stream: TcpStream, real: u16, defect: Arc<Defect>) {
    let mut head = [0; 8192];
    let head = loop {
        let Ok(n) = stream.peek(&mut head).await else { return };
        let text = String::from_utf8_lossy(&head[..n]).into_owned();
        if n == 0 || text.contains("\r\n\r\n") {
            break text;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    };
    if head.to_lowercase().contains("upgrade: websocket") {
        hand_on_frames(stream, real, &defect).await;
    } else if !head.is_empty() {
        hand_on_request(stream, real, &defect).await;
    }
}

#[allow(clippy::result_large_err, reason = "the type is that of the handshake")]
async fn hand_on_frames(stream: TcpStream, real: u16, defect: &Defect) {
    let mut asked = String::new();
    let keep = |request: &Request, response: Response| {
        asked = request.uri().to_string();
        Ok(response)
    };
    let Ok(client) = tokio_tungstenite::accept_hdr_async(stream, keep).await else { return };
    let tcp = TcpStream::connect(("127.0.0.1", real)).await.unwrap();
    let Ok((server, _)) = tokio_tungstenite::client_async(format!("ws://127.0.0.1:{real}{asked}"), tcp).await else {
        return;
    };
    let (mut to_client, mut from_client) = client.split();
    let (mut to_server, mut from_server) = server.split();
    let forth = async {
        while let Some(Ok(message)) = from_client.next().await {
            let messages = match message {
                Message::Text(text) => match (defect.from_client)(&text) {
                    Some(texts) => texts.into_iter().map(Message::text).collect(),
                    None => return,
                },
                other => vec![other],
            };
            for message in messages {
                if to_server.send(message).await.is_err() {
                    return;
                }
            }
        }
    };
    let back = async {
        while let Some(Ok(message)) = from_server.next().await {
            let messages = match message {
                Message::Text(text) => match (defect.from_server)(&text) {
                    Some(texts) => texts.into_iter().map(Message::text).collect(),
                    None => return,
                },
                other => vec![other],
            };
            for message in messages {
                if to_client.send(message).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = forth => {}
        () = back => {}
    }
}

async fn hand_on_request(mut stream: TcpStream, real: u16, defect: &Defect) {
    let mut bytes = Vec::new();
    let (head, start, length) = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let head = text[..end].to_owned();
        let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        break (head, end + 4, length.unwrap_or(0_usize));
    };
    while bytes.len() < start + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    // The server makes addresses of it.
    let host = head.lines().find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned)).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.request(method.parse().unwrap(), format!("http://127.0.0.1:{real}{path}"));
    let answer = request.header("host", host).body(bytes[start..].to_vec()).send().await.unwrap();
    let mut status = answer.status().as_u16();
    let cursor = answer.headers().get("agentruntime-log-cursor");
    let mut cursor = cursor.map(|value| value.to_str().unwrap().to_owned());
    let mut body = answer.bytes().await.unwrap().to_vec();
    (defect.http)(&method, &path, &mut status, &mut body, &mut cursor);
    let cursor = cursor.map_or_else(String::new, |cursor| format!("agentruntime-log-cursor: {cursor}\r\n"));
    let head = format!("HTTP/1.1 {status} X\r\n{cursor}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
}
