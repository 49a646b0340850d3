//! Which files make the live page, and what may it load?

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;

/// Nothing but this server: no inline script or style, no frame, no form target.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path, media type and text of every file.
pub(crate) const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("../assets/index.html")),
    ("/petrel.css", "text/css; charset=utf-8", include_str!("../assets/petrel.css")),
    ("/petrel.js", "text/javascript; charset=utf-8", include_str!("../assets/petrel.js")),
    ("/petrel.svg", "image/svg+xml", include_str!("../assets/petrel.svg")),
];

/// A file as a response. Never cached: another build may serve the same port next.
pub(crate) fn response(media_type: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, media_type), (CACHE_CONTROL, "no-cache")], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for (path, _, text) in FILES {
            for scheme in ["http://", "https://", "ws://", "wss://"] {
                for (at, _) in text.match_indices(scheme) {
                    let link = &text[at..text.len().min(at + 40)];
                    assert!(link.starts_with("http://www.w3.org/"), "{path} names {link}");
                }
            }
            for loader in ["src=\"//", "href=\"//", "@import", "url(", "eval(", "innerHTML"] {
                assert!(!text.contains(loader), "{path} has {loader}");
            }
        }
    }

    #[test]
    fn the_policy_of_the_page_would_not_break_it() {
        let html = FILES[0].2;
        assert!(!html.contains("style=\"") && !html.contains("<style"), "inline style is refused by the policy");
        assert!(!html.contains("onclick") && !html.contains("onload"), "inline handlers are refused by the policy");
        for script in html.split("<script").skip(1) {
            assert!(script.contains(" src=\"/"), "inline script is refused by the policy");
        }
        for link in html.split("=\"/").skip(1) {
            let path = format!("/{}", link.split('"').next().unwrap_or_default());
            assert!(
                FILES.iter().any(|(name, ..)| *name == path) || ["/metrics", "/api/v1/state"].contains(&path.as_str()),
                "{path} is not served"
            );
        }
    }

    #[test]
    fn every_id_that_the_script_looks_up_is_in_the_page() {
        let (html, script) = (FILES[0].2, FILES[2].2);
        let mut found = 0;
        for part in script.split("$(\"").skip(1).chain(script.split("put(\"").skip(1)) {
            let id = part.split('"').next().unwrap_or_default();
            if id.ends_with('-') {
                continue; // The first half of an id that is put together.
            }
            assert!(html.contains(&format!("id=\"{id}\"")), "no element with id {id}");
            found += 1;
        }
        assert!(found > 20, "{found} look-ups: has the script changed its way to look up?");
    }
}
