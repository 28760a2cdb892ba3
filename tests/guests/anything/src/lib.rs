//! Answers with the request as it came, in JSON: what a proxy made of it is then plain to see.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam, Scheme},
};

wasip2::http::proxy::export!(Anything);

struct Anything;

impl Guest for Anything {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let told = describe(&request);
        let headers = Fields::from_list(&[("content-type".to_owned(), b"application/json".to_vec())]).unwrap();
        let response = OutgoingResponse::new(headers);
        let body = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));
        let mut stream = body.write().unwrap();
        stream.write_all(told.as_bytes()).unwrap();
        stream.flush().unwrap();
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
}

fn describe(request: &IncomingRequest) -> String {
    let method = match request.method() {
        Method::Get => "GET".to_owned(),
        Method::Head => "HEAD".to_owned(),
        Method::Post => "POST".to_owned(),
        Method::Put => "PUT".to_owned(),
        Method::Delete => "DELETE".to_owned(),
        Method::Patch => "PATCH".to_owned(),
        Method::Other(name) => name,
        _ => "other".to_owned(),
    };
    let scheme = match request.scheme() {
        Some(Scheme::Http) => "http".to_owned(),
        Some(Scheme::Https) => "https".to_owned(),
        Some(Scheme::Other(name)) => name,
        None => String::new(),
    };
    let mut headers: Vec<(String, Vec<u8>)> = request.headers().entries();
    headers.sort();
    let mut body = Vec::new();
    if let Ok(incoming) = request.consume() {
        incoming.stream().unwrap().read_to_end(&mut body).unwrap();
    }
    let mut to = "{\"method\":".to_owned();
    text(&method, &mut to);
    to.push_str(",\"scheme\":");
    text(&scheme, &mut to);
    to.push_str(",\"authority\":");
    text(&request.authority().unwrap_or_default(), &mut to);
    to.push_str(",\"target\":");
    text(&request.path_with_query().unwrap_or_default(), &mut to);
    to.push_str(",\"headers\":[");
    for (index, (name, value)) in headers.iter().enumerate() {
        to.push_str(if index == 0 { "[" } else { ",[" });
        text(name, &mut to);
        to.push(',');
        text(&String::from_utf8_lossy(value), &mut to);
        to.push(']');
    }
    to.push_str("],\"body\":");
    text(&String::from_utf8_lossy(&body), &mut to);
    to.push('}');
    to
}

/// A string of JSON (RFC 8259 §7).
fn text(text: &str, to: &mut String) {
    to.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => to.extend(['\\', c]),
            c if c.is_control() => write!(to, "\\u{:04x}", c as u32).unwrap(),
            c => to.push(c),
        }
    }
    to.push('"');
}
