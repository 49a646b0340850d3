//! Which files make the live page, and what may it load?

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;

/// Nothing but this server: no inline script or style, no frame, no form target.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the pages.
pub(crate) struct File {
    /// Where it is served; the documents have no path of their own.
    pub(crate) path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

impl File {
    /// The file as a response. Never cached: another build may serve the same port next.
    pub(crate) fn response(&self) -> impl IntoResponse + use<> {
        ([(CONTENT_TYPE, self.media_type), (CACHE_CONTROL, "no-cache")], self.text)
    }
}

const fn document(text: &'static str) -> File {
    File { path: "", media_type: "text/html; charset=utf-8", text }
}

const fn script(path: &'static str, text: &'static str) -> File {
    File { path, media_type: "text/javascript; charset=utf-8", text }
}

/// The live page of one job.
pub(crate) const JOB: File = document(include_str!("../assets/index.html"));
/// The overview of many jobs.
pub(crate) const OVERVIEW: File = document(include_str!("../assets/overview.html"));

/// What the documents load.
pub(crate) static FILES: [File; 5] = [
    File { path: "/petrel.css", media_type: "text/css; charset=utf-8", text: include_str!("../assets/petrel.css") },
    script("/petrel.js", include_str!("../assets/petrel.js")),
    script("/overview.js", include_str!("../assets/overview.js")),
    script("/format.js", include_str!("../assets/format.js")),
    File { path: "/petrel.svg", media_type: "image/svg+xml", text: include_str!("../assets/petrel.svg") },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static File> {
        FILES.iter().chain([&JOB, &OVERVIEW])
    }

    #[test]
    fn the_pages_need_nothing_from_elsewhere() {
        for File { path, text, .. } in all() {
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
    fn the_policy_of_the_pages_would_not_break_them() {
        for html in [JOB.text, OVERVIEW.text] {
            assert!(!html.contains("style=\"") && !html.contains("<style"), "inline style is refused by the policy");
            assert!(!html.contains("onclick") && !html.contains("onload"), "inline handlers are refused by the policy");
            for script in html.split("<script").skip(1) {
                assert!(script.contains(" src=\"/"), "inline script is refused by the policy");
            }
            for link in html.split("=\"/").skip(1) {
                let path = format!("/{}", link.split('"').next().unwrap_or_default());
                let is_file = FILES.iter().any(|file| file.path == path);
                assert!(
                    is_file || ["/", "/metrics", "/api/v1/state", "/api/v1/jobs"].contains(&path.as_str()),
                    "{path} is not served"
                );
            }
        }
    }

    #[test]
    fn every_id_that_a_script_looks_up_is_in_its_page() {
        for (html, script) in
            [(&JOB, include_str!("../assets/petrel.js")), (&OVERVIEW, include_str!("../assets/overview.js"))]
        {
            let mut found = 0;
            for part in script.split("$(\"").skip(1).chain(script.split("put(\"").skip(1)) {
                let id = part.split('"').next().unwrap_or_default();
                if id.ends_with('-') {
                    continue; // The first half of an id that is put together.
                }
                assert!(html.text.contains(&format!("id=\"{id}\"")), "no element with id {id}");
                found += 1;
            }
            assert!(found > 15, "{found} look-ups: has the script changed its way to look up?");
        }
    }
}
