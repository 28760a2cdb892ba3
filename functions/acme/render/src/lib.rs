//! `acme/render`: Markdown in, safe HTML out.
//!
//! Parser (`pulldown-cmark`) and sanitizer (`ammonia`, on the HTML parser of a browser engine) are apart on purpose: what
//! the parser lets through as raw HTML, by design or by mistake, is read again as a browser would and kept only where
//! the allow-list below says so.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use ammonia::{Builder, UrlRelative};
use pulldown_cmark::{Event as Step, Options, Parser, html};
use serde::{Deserialize, Serialize};

/// Status and JSON body of the reply to one event.
pub fn reply(event: &[u8]) -> (u16, Vec<u8>) {
    // The gateway has validated the event; a body that still is not one is refused like any other fault in it.
    let Ok(event) = serde_json::from_slice::<Event>(event) else {
        return (422, json(&Refusal { error: "not an event of this function" }));
    };
    match safe_html(&event.markdown) {
        Ok(html) => (200, json(&Page { html })),
        Err(error) => (422, json(&Refusal { error })),
    }
}

/// CommonMark with tables and strikethrough, as HTML that can do nothing but be read; or why not.
pub fn safe_html(markdown: &str) -> Result<String, &'static str> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    let mut unsafe_html = String::with_capacity(markdown.len() * 2);
    let (mut depth, mut deepest) = (0_usize, 0);
    let steps = Parser::new_ext(markdown, options).inspect(|step| match step {
        Step::Start(_) => {
            depth += 1;
            deepest = deepest.max(depth);
        }
        Step::End(_) => depth = depth.saturating_sub(1),
        _ => {}
    });
    html::push_html(&mut unsafe_html, steps);
    if deepest > MAX_DEPTH {
        return Err("nested more than 100 deep");
    }
    if unsafe_html.len() > MAX_HTML_BYTES {
        return Err("the HTML would be longer than 256 KiB");
    }
    // `Builder::empty` has no tags, but still the default attributes and schemes: every list is set here.
    let mut sanitizer = Builder::empty();
    sanitizer
        .tags(HashSet::from(TAGS))
        .clean_content_tags(HashSet::from(["script", "style"]))
        .generic_attributes(HashSet::new())
        .tag_attributes(HashMap::from([
            ("a", HashSet::from(["href", "title"])),
            ("img", HashSet::from(["src", "alt", "title"])),
            ("ol", HashSet::from(["start"])),
        ]))
        .url_schemes(HashSet::from(["http", "https", "mailto"]))
        .url_relative(UrlRelative::PassThrough)
        .link_rel(Some("noopener noreferrer nofollow"));
    Ok(sanitizer.clean(&unsafe_html).to_string())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event<'a> {
    #[serde(borrow)]
    markdown: Cow<'a, str>,
}

#[derive(Serialize)]
struct Page {
    html: String,
}

#[derive(Serialize)]
struct Refusal {
    error: &'static str,
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    // Writing texts into memory has no way to fail.
    if serde_json::to_writer(&mut out, value).is_err() {
        out.clear();
    }
    out
}

// The HTML parser looks through all open elements at each new one: without a bound, nesting costs its square.
const MAX_DEPTH: usize = 100;

/// Before sanitizing, which may add `rel` to each link and drop much. A table row may be shorter than its header and is filled up: small Markdown can make much HTML.
const MAX_HTML_BYTES: usize = 256 * 1024;

/// What Markdown itself can say. No classes, ids, styles, forms, frames, SVG or MathML.
const TAGS: [&str; 28] = [
    "a",
    "blockquote",
    "br",
    "code",
    "del",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "img",
    "li",
    "ol",
    "p",
    "pre",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
];

#[cfg(test)]
mod tests {
    use super::safe_html;

    fn html(markdown: &str) -> String {
        safe_html(markdown).unwrap().trim_end().to_owned()
    }

    #[test]
    fn markdown_becomes_html() {
        assert_eq!(html("# A *b*\n\n- ~~c~~"), "<h1>A <em>b</em></h1>\n<ul>\n<li><del>c</del></li>\n</ul>");
        assert_eq!(
            html("[a](https://b.example/?c=1&d=2 'e')"),
            r#"<p><a href="https://b.example/?c=1&amp;d=2" title="e" rel="noopener noreferrer nofollow">a</a></p>"#
        );
    }

    #[test]
    fn what_can_do_more_than_be_read_is_gone() {
        for markdown in [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "[a](javascript:alert(1))",
            "[a](<&#106;avascript:alert(1)>)",
            "[a](data:text/html;base64,PHNjcmlwdD4=)",
            "![a](vbscript:x)",
            "<a href=\"java&#10;script:alert(1)\">a</a>",
            "<svg><style><img src=x onerror=alert(1)></style></svg>",
            "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
            "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
            "<form action=x><input></form>",
            "<p style=position:fixed>a</p>",
            "[a](irc://b.example)",
            "<p title=a lang=b id=c class=d>a</p>",
        ] {
            let html = html(markdown).to_ascii_lowercase();
            for bad in [
                "<script", "script:", "onerror", "<svg", "<math", "<iframe", "<form", "<input", "style",
                "data:", "irc:", "title", "lang", "id=", "class",
            ] {
                assert!(!html.contains(bad), "{markdown} gives {html}");
            }
        }
    }

    #[test]
    fn nesting_and_length_are_bounded() {
        assert_eq!(safe_html(&">".repeat(101)), Err("nested more than 100 deep"));
        assert!(safe_html(&format!("{}x", ">".repeat(99))).is_ok());
        let wide = format!("{}|\n{}|\n{}", "|a".repeat(700), "|-".repeat(700), "a|\n".repeat(3000));
        assert_eq!(safe_html(&wide), Err("the HTML would be longer than 256 KiB"));
    }
}

#[cfg(target_family = "wasm")]
mod guest {
    wit_bindgen::generate!({ path: "../../wit", world: "function" });

    use exports::sandgate::function::handler::{Event, Guest, Response};

    #[global_allocator]
    static HEAP: mini_alloc::MiniAlloc = mini_alloc::MiniAlloc::INIT;

    struct Render;

    impl Guest for Render {
        fn handle(event: Event) -> Response {
            let (status, body) = crate::reply(&event.body);
            Response { status, content_type: "application/json".into(), headers: Vec::new(), body }
        }
    }

    export!(Render);
}
