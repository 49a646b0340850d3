//! The page as a browser gets it: whole, from this server alone, under a strict policy.

mod support;

use support::serve;

#[test]
fn every_file_is_served_with_its_type_and_the_policy() {
    let served = serve();
    let files = [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/petrel.css", "text/css; charset=utf-8", ":root"),
        ("/petrel.js", "text/javascript; charset=utf-8", "EventSource"),
        ("/format.js", "text/javascript; charset=utf-8", "export"),
        ("/petrel.svg", "image/svg+xml", "<svg"),
    ];
    for (path, media_type, inside) in files {
        let reply = served.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.head.contains(&format!("content-type: {media_type}")), "{path}: {}", reply.head);
        assert!(reply.head.contains("default-src 'none'; script-src 'self'"), "{path}: {}", reply.head);
        assert!(!reply.head.contains("unsafe-"), "{path}: {}", reply.head);
        assert!(reply.head.contains("x-content-type-options: nosniff"), "{path}");
        assert!(reply.body.contains(inside), "{path}");
    }
}

#[test]
fn every_figure_can_be_found_by_a_browser_test() {
    let html = serve().get("/").body;
    let figures = [
        "arrival-rate",
        "processed-rate",
        "burst-probability",
        "executors-running",
        "executors-starting",
        "executors-target",
        "latency-p95",
        "objective-verdict",
        "intervals-met",
        "backlog",
        "cost-rate",
        "cost-total",
        "job",
        "engine",
        "mode",
        "notice",
        "pin-executors",
        "policy",
        "trace",
        "uptime",
        "connection",
        "burst-start",
        "burst-stop",
        "burst-factor",
        "burst-seconds",
        "decisions",
        "alerts",
        "alerts-total",
        "executors",
        "gateways",
        "tier",
        "codec",
        "produced",
        "acknowledged",
        "in-sink",
        "duplicates",
        "dead-letter",
        "provisioning-note",
    ];
    for figure in figures {
        assert_eq!(html.matches(&format!("data-testid=\"{figure}\"")).count(), 1, "{figure}");
    }
    assert!(html.contains("of it emulated"), "the emulated delay is labelled as such");
}
