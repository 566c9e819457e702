//! The web page at `/`: a live view of the network for people.
//!
//! Three files inside the program, nothing from elsewhere. The policy in the answer forbids the
//! browser everything but these files and questions to this validator, and the page writes text
//! only, never markup.

use axum::http::{HeaderName, header};
use axum::response::IntoResponse;

const HTML: &str = include_str!("page/index.html");
const CSS: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'";

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

pub(super) async fn html() -> impl IntoResponse {
    file("text/html; charset=utf-8", HTML)
}

pub(super) async fn css() -> impl IntoResponse {
    file("text/css; charset=utf-8", CSS)
}

pub(super) async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", SCRIPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the policy would block would only show in a browser.
    #[test]
    fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
        for (name, text) in [("html", HTML), ("css", CSS), ("js", SCRIPT)] {
            for foreign in ["http:", "https:", "//cdn", "@import", "url("] {
                // The name space of SVG is a name, not an address.
                let text = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(foreign), "{foreign} in {name}");
            }
        }
        for inline in ["style=", "<style", "onclick", "onload", "<script>"] {
            assert!(!HTML.contains(inline), "{inline}");
        }
        for markup in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!SCRIPT.contains(markup), "{markup}");
        }
    }
}
