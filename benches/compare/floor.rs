//! The floor: what bare actix-web and actix-ws do with the same requests, reading the body and answering a fixed one.

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::StreamExt;

const ANSWER: &str = r#"{"text":"List the files.","state":{"v":1,"turn":1}}"#;
const RESULT: &str = r#"{"message_type":"result_message","data":{"type":"text","text":"List the files."}}"#;

/// Serves until it is killed.
pub fn serve() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        println!("bare actix listening on port {} ()", listener.local_addr().expect("an address").port());
        let answer = |body: web::Bytes| async move {
            let text = if body.is_empty() { "" } else { ANSWER };
            HttpResponse::Ok().content_type("application/json").body(text)
        };
        let health = || async { HttpResponse::Ok().content_type("application/json").body(r#"{"ok":true}"#) };
        let large = web::PayloadConfig::new(1 << 20);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(large.clone())
                .route("/health", web::get().to(health))
                .route("/runtime/advance", web::post().to(answer))
                .route("/", web::get().to(echo))
        });
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
        server.workers(cores).listen(listener).expect("a listener").run().await.expect("a server");
    });
}

async fn echo(request: HttpRequest, body: web::Payload) -> actix_web::Result<HttpResponse> {
    let (response, mut session, mut messages) = actix_ws::handle(&request, body)?;
    actix_web::rt::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            if matches!(message, actix_ws::Message::Text(_)) && session.text(RESULT).await.is_err() {
                return;
            }
        }
    });
    Ok(response)
}
