//! Who wins where? One self-contained page, and the sentences at its top.

use crate::arena::{DecisionTime, Settings, machine};
use crate::players::{Kind, Origin, Player};
use crate::plots::Picture;
use crate::run::World;
use crate::stats::{Interval, pareto_front};
use crate::tables::{
    AblationRow, AggregateRow, Figure, OPTIMUM_BOUND, PairRow, SummaryRow, TOLERATED_VIOLATION_RATE, by_objective,
};
use crate::tournament::Tournament;
use std::fmt::Write as _;

/// What a learned policy may cost at most, as a multiple of the lower bound.
const COST_BAR: f64 = 1.15;

/// Everything that the page shows.
pub struct Facts<'a> {
    /// As the command was given.
    pub settings: &'a Settings,
    /// Who played where.
    pub tournament: &'a Tournament,
    /// Rows of `summary.csv`.
    pub summary: &'a [SummaryRow],
    /// Rows of `aggregate.csv`.
    pub aggregate: &'a [AggregateRow],
    /// Rows of `pairwise.csv`.
    pub pairwise: &'a [PairRow],
    /// Rows of `ablations.csv`.
    pub ablations: &'a [AblationRow],
    /// How long players think.
    pub decisions: &'a [DecisionTime],
    /// Sentences.
    pub verdicts: &'a [String],
    /// Drawings.
    pub pictures: &'a [Picture],
}

fn kind_of(players: &[Player], world: World, name: &str) -> Kind {
    players.iter().find(|player| player.world == world && player.name == name).map_or(Kind::Rule, |player| player.kind)
}

fn percent(rate: f64) -> String {
    let percent = 100.0 * rate;
    if percent.abs() < 10.0 { format!("{percent:.2} %") } else { format!("{percent:.1} %") }
}

fn dollars(world: World, cost: f64) -> String {
    match world {
        World::Classic => format!("{cost:.0}"),
        World::Queue => format!("${cost:.4}"),
    }
}

fn figures(world: World, row: &AggregateRow) -> String {
    let (missed, avoidable) = (percent(row.violation_rate.estimate), percent(row.avoidable_rate.estimate));
    let cost = dollars(world, row.cost.estimate);
    if missed == avoidable {
        format!("{missed} missed at {cost}")
    } else {
        format!("{missed} missed ({avoidable} avoidable) at {cost}")
    }
}

fn names(rows: &[&AggregateRow]) -> String {
    rows.iter().map(|row| row.player.as_str()).collect::<Vec<&str>>().join(", ")
}

/// Who wins where, in sentences that name the losers as well.
pub fn verdicts(
    players: &[Player],
    summary: &[SummaryRow],
    aggregate: &[AggregateRow],
    pairs: &[PairRow],
    has_queue_optimum: bool,
) -> Vec<String> {
    let mut sentences = Vec::new();
    for world in World::ALL {
        let here: Vec<&AggregateRow> = aggregate.iter().filter(|row| row.world == world).collect();
        let rivals: Vec<&AggregateRow> =
            here.iter().copied().filter(|row| kind_of(players, world, &row.player) != Kind::Optimum).collect();
        let Some(best) = rivals.iter().copied().min_by(|a, b| by_objective(a.judged(), b.judged())) else { continue };
        sentences.push(winner(world, best, &rivals, pairs));
        sentences.push(front(world, &rivals));
        sentences.extend(learned(players, world, &here, &rivals));
        sentences.extend(by_trace(players, world, summary));
        if world == World::Queue && !has_queue_optimum {
            sentences.push("queue: nobody computed the clairvoyant optimum, so regret is not known.".to_string());
        }
    }
    sentences
}

fn winner(world: World, best: &AggregateRow, rivals: &[&AggregateRow], pairs: &[PairRow]) -> String {
    let keeps = best.avoidable_rate.estimate <= TOLERATED_VIOLATION_RATE;
    let over = if best.regret.estimate.is_nan() {
        String::new()
    } else {
        format!(", {} above the clairvoyant lower bound", percent(best.regret.estimate))
    };
    let how = figures(world, best);
    let mut sentence = if keeps {
        format!("{world}: {} keeps the objective at the lowest cost: {how}{over}.", best.player)
    } else {
        format!("{world}: no player keeps the objective on average; {} comes closest: {how}{over}.", best.player)
    };
    let mut others: Vec<&AggregateRow> = rivals.iter().copied().filter(|row| row.player != best.player).collect();
    others.sort_by(|a, b| by_objective(a.judged(), b.judged()));
    if let Some(second) = others.first() {
        let pair = pairs.iter().find(|pair| {
            (pair.world, pair.figure) == (world, Figure::Objective)
                && pair.player == best.player
                && pair.rival == second.player
        });
        let _ = write!(sentence, " Next is {}: {}", second.player, figures(world, second));
        if let Some(pair) = pair {
            let Interval { estimate, lo, hi } = pair.probability;
            let _ = write!(
                sentence,
                "; a game of {} is the better one with probability {estimate:.2} ({lo:.2} to {hi:.2})",
                best.player
            );
        }
        sentence.push('.');
    }
    sentence
}

fn front(world: World, rivals: &[&AggregateRow]) -> String {
    let points: Vec<(f64, f64)> = rivals.iter().map(|row| (row.violation_rate.estimate, row.cost.estimate)).collect();
    let front: Vec<&AggregateRow> = pareto_front(&points).into_iter().map(|index| rivals[index]).collect();
    match front.as_slice() {
        [alone] => {
            format!("{world}: {} is alone on the Pareto front: nobody misses less, nobody costs less.", alone.player)
        }
        several => format!(
            "{world}: on the Pareto front of violations and cost, from fewest violations to lowest cost: {}.",
            names(several)
        ),
    }
}

/// The best learned player against its bars and its rivals, told plainly.
fn learned(players: &[Player], world: World, here: &[&AggregateRow], rivals: &[&AggregateRow]) -> Vec<String> {
    let is_learned = |row: &&&AggregateRow| kind_of(players, world, &row.player) == Kind::Learned;
    let Some(best) = rivals.iter().filter(is_learned).min_by(|a, b| by_objective(a.judged(), b.judged())) else {
        return vec![format!("{world}: no learned policy plays.")];
    };
    let others: Vec<&AggregateRow> =
        rivals.iter().copied().filter(|row| kind_of(players, world, &row.player) != Kind::Learned).collect();
    let figures_of = |row: &AggregateRow| (row.violation_rate.estimate, row.cost.estimate);
    let (missed, cost) = figures_of(best);
    let better: Vec<&AggregateRow> = others
        .iter()
        .copied()
        .filter(|row| figures_of(row).0 <= missed && figures_of(row).1 <= cost && figures_of(row) != (missed, cost))
        .collect();
    let beaten: Vec<&AggregateRow> =
        others.iter().copied().filter(|row| figures_of(row).0 >= missed && figures_of(row).1 >= cost).collect();
    let mut sentence = format!("{world}: the best learned policy is {}: {}.", best.player, figures(world, best));
    if beaten.len() == others.len() && !others.is_empty() {
        sentence.push_str(" It beats every rival on both figures.");
    } else if !better.is_empty() {
        let _ = write!(sentence, " It is beaten on both figures by {}.", names(&better));
    } else {
        let _ = write!(
            sentence,
            " It beats {} of {} rivals on both figures and none beats it on both.",
            beaten.len(),
            others.len()
        );
    }
    if let Some(bound) = here.iter().find(|row| row.player == OPTIMUM_BOUND) {
        let limit = COST_BAR * bound.cost.estimate;
        let keeps = best.avoidable_rate.estimate <= TOLERATED_VIOLATION_RATE;
        let verdict = match (keeps, cost <= limit) {
            (true, true) => "It meets the bar",
            (true, false) => "It misses the bar on cost",
            (false, true) => "It misses the bar on violations",
            (false, false) => "It misses the bar on violations and on cost",
        };
        let _ = write!(
            sentence,
            " {verdict} of 1 % missed at {COST_BAR} × the lower bound ({}): its cost is {:.2} × the bound.",
            dollars(world, limit),
            cost / bound.cost.estimate
        );
    }
    vec![sentence]
}

/// Who wins how many traces.
fn by_trace(players: &[Player], world: World, summary: &[SummaryRow]) -> Option<String> {
    let winners = trace_winners(players, world, summary);
    if winners.len() < 2 {
        return None;
    }
    let mut counts: Vec<(&str, Vec<&str>)> = Vec::new();
    for (trace, row) in &winners {
        match counts.iter_mut().find(|(player, _)| *player == row.player) {
            Some((_, traces)) => traces.push(trace),
            None => counts.push((&row.player, vec![trace])),
        }
    }
    counts.sort_by_key(|(_, traces)| std::cmp::Reverse(traces.len()));
    let parts: Vec<String> =
        counts.iter().map(|(player, traces)| format!("{player} on {} ({})", traces.len(), traces.join(", "))).collect();
    Some(format!("{world}: best by the objective, of {} traces: {}.", winners.len(), parts.join("; ")))
}

/// Best rival of every trace.
fn trace_winners<'a>(players: &[Player], world: World, summary: &'a [SummaryRow]) -> Vec<(&'a str, &'a SummaryRow)> {
    let mut winners: Vec<(&str, &SummaryRow)> = Vec::new();
    for row in summary.iter().filter(|row| row.world == world && kind_of(players, world, &row.player) != Kind::Optimum)
    {
        match winners.iter_mut().find(|(trace, _)| *trace == row.trace) {
            Some((_, best)) if by_objective(row.judged(), best.judged()).is_lt() => *best = row,
            Some(_) => {}
            None => winners.push((&row.trace, row)),
        }
    }
    winners
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A cell: what is shown, and what it is sorted by.
struct Cell(String, Option<f64>);

impl Cell {
    fn text(text: impl AsRef<str>) -> Self {
        Self(escape(text.as_ref()), None)
    }

    fn figure(figure: f64, shown: String) -> Self {
        if figure.is_nan() { Self("–".to_string(), Some(f64::INFINITY)) } else { Self(shown, Some(figure)) }
    }

    fn percent(rate: f64) -> Self {
        Self::figure(rate, format!("{:.2}", 100.0 * rate))
    }

    fn interval(interval: Interval, factor: f64, decimals: usize) -> Self {
        let [estimate, lo, hi] = [interval.estimate, interval.lo, interval.hi].map(|figure| factor * figure);
        let shown = format!("{estimate:.decimals$} <small>{lo:.decimals$}…{hi:.decimals$}</small>");
        Self::figure(estimate, shown)
    }
}

fn table(header: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut html = "<table class=\"sortable\"><thead><tr>".to_string();
    for name in header {
        let _ = write!(html, "<th tabindex=\"0\">{}</th>", escape(name));
    }
    html.push_str("</tr></thead><tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for Cell(shown, sorted_by) in row {
            match sorted_by {
                Some(figure) => {
                    let _ = write!(html, "<td class=\"n\" data-v=\"{figure}\">{shown}</td>");
                }
                None => {
                    let _ = write!(html, "<td>{shown}</td>");
                }
            }
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table>\n");
    html
}

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1180px;padding:1.5rem;color:#1a1a1a;background:#fff}
h1{font-size:1.7rem;margin:0 0 .2rem}h2{margin:2.2rem 0 .6rem;border-bottom:1px solid #ddd;padding-bottom:.2rem}
h3{margin:1.4rem 0 .4rem}dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.6rem 0}
dt{color:#555}dd{margin:0}code{font-size:.9em;background:#f4f4f4;padding:.1em .3em;border-radius:3px;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;width:100%;margin:.5rem 0}
th,td{padding:.25rem .55rem;border-bottom:1px solid #e6e6e6;text-align:left;vertical-align:top}
td:first-child{white-space:nowrap}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}th{cursor:pointer;background:#f7f7f7;user-select:none}
th:hover,th:focus{background:#eee}th[aria-sort=ascending]::after{content:' \\25b2'}th[aria-sort=descending]::after{content:' \\25bc'}
small{color:#777}figure{margin:1rem 0}figure svg{max-width:100%;height:auto}figcaption{color:#444;font-size:.9rem}
details{margin:.6rem 0}summary{cursor:pointer}.optimum td:first-child{color:#00704f}";

const SCRIPT: &str = "\
for(const table of document.querySelectorAll('table.sortable')){const heads=[...table.tHead.rows[0].cells];
heads.forEach((head,column)=>{const sort=()=>{const up=head.getAttribute('aria-sort')!=='ascending';
heads.forEach(h=>h.removeAttribute('aria-sort'));head.setAttribute('aria-sort',up?'ascending':'descending');
const key=row=>{const cell=row.cells[column];return cell.dataset.v===undefined?cell.textContent:Number(cell.dataset.v)};
const rows=[...table.tBodies[0].rows];rows.sort((a,b)=>{const x=key(a),y=key(b);
const order=typeof x==='number'&&typeof y==='number'?x-y:String(x).localeCompare(String(y));return up?order:-order});
table.tBodies[0].append(...rows)};head.addEventListener('click',sort);
head.addEventListener('keydown',event=>{if(event.key==='Enter')sort()})})}";

/// The page: everything inside one file, readable without a network.
pub fn html(facts: &Facts<'_>) -> String {
    let mut page = String::with_capacity(1 << 20);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Petrel arena</title><style>{STYLE}</style></head><body>\n<h1>Petrel arena</h1>\n"
    );
    push_setting(&mut page, facts);
    page.push_str("<h2>Who wins where</h2>\n<ul>\n");
    for verdict in facts.verdicts {
        let _ = writeln!(page, "<li>{}</li>", escape(verdict));
    }
    page.push_str("</ul>\n");
    for world in World::ALL {
        push_world(&mut page, facts, world);
    }
    push_curves(&mut page, facts);
    push_players(&mut page, facts);
    push_method(&mut page);
    push_summary(&mut page, facts);
    let _ = write!(page, "<script>{SCRIPT}</script>\n</body></html>\n");
    page
}

fn push_setting(page: &mut String, facts: &Facts<'_>) {
    let tournament = facts.tournament;
    let limits = tournament.settings.limits;
    let traces = match (&facts.settings.trace, &facts.settings.common.traces) {
        (Some(path), _) => format!("one trace, {}, scale {}", path.display(), facts.settings.scale),
        (None, Some(_)) => {
            "test parts: six synthetic families and the last quarter of every recorded trace".to_string()
        }
        (None, None) => "test parts of six synthetic families; no folder of recorded traces was given".to_string(),
    };
    let tuning = facts
        .settings
        .tuned
        .as_ref()
        .map_or_else(|| "as shipped with the program".to_string(), |path| path.display().to_string());
    let mut items = vec![
        ("date", facts.settings.date.clone()),
        ("machine", machine()),
        ("command", format!("<code>{}</code>", escape(&facts.settings.command))),
        (
            "seeds",
            format!("{} per player and trace, paired: all players meet the same records and draws", tournament.seeds),
        ),
    ];
    if tournament.players.iter().any(|player| player.world == World::Queue) {
        items.push(("traces of queue", escape(&traces)));
        items.push((
            "queue",
            format!(
                "{} s a game, up to {} executors, objective p95 ≤ {:.0} ms in every 5 s interval, up to {} warm spares",
                facts.settings.common.episode_s,
                limits.max_executors,
                tournament.settings.slo.p95_ms,
                limits.max_prewarm
            ),
        ));
        items.push(("tuned settings", escape(&tuning)));
    }
    if !tournament.without.is_empty() {
        items.push(("without", tournament.without.to_string()));
    }
    page.push_str("<dl>");
    for (name, value) in items.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(page, "<dt>{name}</dt><dd>{value}</dd>");
    }
    page.push_str("</dl>\n");
}

fn push_figure(page: &mut String, picture: &Picture) {
    let svg = inline_svg(&picture.svg(), &picture.name);
    let _ = writeln!(page, "<figure>{svg}<figcaption>{}</figcaption></figure>", escape(&picture.caption));
}

/// A drawing as part of a page: it shrinks with the window, and its ids differ from those of the other drawings.
fn inline_svg(svg: &str, name: &str) -> String {
    // Inside a page neither an XML declaration nor a doctype is allowed.
    let svg = svg.find("<svg").map_or(svg, |start| &svg[start..]);
    let attribute = |name: &str| {
        let start = svg.find(&format!(" {name}=\""))? + name.len() + 3;
        svg[start..].split('"').next().map(str::to_string)
    };
    let svg = match (attribute("width"), attribute("height")) {
        (Some(width), Some(height)) => {
            svg.replacen("<svg ", &format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" "), 1)
        }
        _ => svg.to_string(),
    };
    svg.replace("kuva-clip-", &format!("{name}-clip-"))
}

fn push_pictures(page: &mut String, facts: &Facts<'_>, is_wanted: impl Fn(&str) -> bool) {
    for picture in facts.pictures.iter().filter(|picture| is_wanted(&picture.name)) {
        push_figure(page, picture);
    }
}

fn push_world(page: &mut String, facts: &Facts<'_>, world: World) {
    let mut rows: Vec<&AggregateRow> = facts.aggregate.iter().filter(|row| row.world == world).collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by(|a, b| by_objective(a.judged(), b.judged()));
    let _ = writeln!(page, "<h2>World {world}</h2>");
    page.push_str(match world {
        World::Classic => {
            "<p>The published environment: a formula without queue, cold start or memory. Its cost is the sum of the $/h figures \
             of 500 steps; an interval is one step, missed above 1,000 ms. Shown because it was published; nothing is tuned for it alone.</p>\n"
        }
        World::Queue => {
            "<p>A streaming job on executors: micro-batches, backlog, executors that take seconds or minutes to start, shuffle on \
             storage tiers, list prices. Every player decides every 5 s within the same limits.</p>\n"
        }
    });
    push_pictures(page, facts, |name| name == format!("cost-violations-{world}"));
    let decimals = if world == World::Classic { 0 } else { 4 };
    let header = [
        "player",
        "kind",
        "missed %",
        "missed % (IQM)",
        "avoidable %",
        "cost",
        "cost (IQM)",
        "over bound %",
        "objective kept %",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "executor-hours",
        "scalings",
        "cold starts met",
        "wasted pre-warm s",
    ];
    let body = rows
        .iter()
        .map(|row| {
            let means = row.means;
            vec![
                Cell::text(&row.player),
                Cell::text(kind_of(&facts.tournament.players, world, &row.player).name()),
                Cell::interval(row.violation_rate, 100.0, 2),
                Cell::interval(row.violation_rate_iqm, 100.0, 2),
                Cell::interval(row.avoidable_rate, 100.0, 2),
                Cell::interval(row.cost, 1.0, decimals),
                Cell::interval(row.cost_iqm, 1.0, decimals),
                Cell::interval(row.regret, 100.0, 1),
                Cell::figure(row.kept_objective, format!("{:.0}", 100.0 * row.kept_objective)),
                Cell::figure(means.p50_ms, format!("{:.0}", means.p50_ms)),
                Cell::figure(means.p95_ms, format!("{:.0}", means.p95_ms)),
                Cell::figure(means.p99_ms, format!("{:.0}", means.p99_ms)),
                Cell::figure(means.executor_hours, format!("{:.2}", means.executor_hours)),
                Cell::figure(means.scalings, format!("{:.1}", means.scalings)),
                Cell::figure(means.cold_starts_met, format!("{:.1}", means.cold_starts_met)),
                Cell::figure(means.wasted_prewarm_s, format!("{:.0}", means.wasted_prewarm_s)),
            ]
        })
        .collect();
    let _ = writeln!(page, "<div class=\"wide\">{}</div>", table(&header, body));
    push_winners(page, facts, world, decimals);
    push_improvement(page, facts, world, &rows);
    if facts.ablations.iter().any(|row| row.world == world) {
        page.push_str("<h3>What each part is worth</h3>\n");
        push_pictures(page, facts, |name| name == format!("ablations-{world}"));
    }
    if world == World::Queue {
        page.push_str("<h3>One burst</h3>\n");
        push_pictures(page, facts, |name| name == "timelines");
        page.push_str("<details><summary>Rate, executors and latency, one picture per player</summary>\n");
        push_pictures(page, facts, |name| name.starts_with("timeline-"));
        page.push_str("</details>\n");
    }
}

fn push_winners(page: &mut String, facts: &Facts<'_>, world: World, decimals: usize) {
    let winners = trace_winners(&facts.tournament.players, world, facts.summary);
    let rows = winners
        .iter()
        .map(|(trace, row)| {
            vec![
                Cell::text(trace),
                Cell::text(&row.player),
                Cell::interval(row.violation_rate, 100.0, 2),
                Cell::interval(row.cost, 1.0, decimals),
                Cell::interval(row.regret, 100.0, 1),
            ]
        })
        .collect();
    let what = if world == World::Classic { "scenario" } else { "trace" };
    let _ = writeln!(page, "<h3>Best by the objective on every {what}</h3>");
    page.push_str(&table(&[what, "player", "missed %", "cost", "over bound %"], rows));
}

/// Probability of improvement by the objective: everybody against everybody.
fn push_improvement(page: &mut String, facts: &Facts<'_>, world: World, rows: &[&AggregateRow]) {
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row.player.as_str())
        .filter(|name| kind_of(&facts.tournament.players, world, name) != Kind::Optimum)
        .collect();
    let of = |player: &str, rival: &str| {
        facts
            .pairwise
            .iter()
            .find(|row| {
                (row.world, row.figure) == (world, Figure::Objective) && row.player == player && row.rival == rival
            })
            .map(|row| row.probability)
    };
    let mut html = "<table><thead><tr><th></th>".to_string();
    for name in &names {
        let _ = write!(html, "<th>{}</th>", escape(name));
    }
    html.push_str("</tr></thead><tbody>\n");
    for player in &names {
        let _ = write!(html, "<tr><td>{}</td>", escape(player));
        for rival in &names {
            match of(player, rival) {
                None => html.push_str("<td></td>"),
                Some(Interval { estimate, lo, hi }) => {
                    // Blue where the row wins, red where it loses, pale where nobody does.
                    let strength = (2.0 * (estimate - 0.5)).clamp(-1.0, 1.0);
                    let colour = if strength >= 0.0 { "0,114,178" } else { "213,94,0" };
                    let _ = write!(
                        html,
                        "<td class=\"n\" style=\"background:rgba({colour},{:.2})\" title=\"{lo:.2} to {hi:.2}\">{estimate:.2}</td>",
                        0.45 * strength.abs()
                    );
                }
            }
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table>");
    let _ = writeln!(
        page,
        "<details><summary>Probability that a game of the row's player is better than one of the column's</summary>\n\
         <p>By the objective: fewer avoidable misses beyond 1 % first, then lower cost. Hover for the 95 % interval.</p>\n\
         <div class=\"wide\">{html}</div></details>"
    );
}

fn push_curves(page: &mut String, facts: &Facts<'_>) {
    if facts.pictures.iter().any(|picture| picture.name == "learning-curves") {
        page.push_str("<h2>Learning</h2>\n");
        push_pictures(page, facts, |name| name == "learning-curves");
    }
}

fn push_players(page: &mut String, facts: &Facts<'_>) {
    let players = &facts.tournament.players;
    let rows = players
        .iter()
        .map(|player| {
            let time = facts.decisions.iter().find(|time| player.world == World::Queue && time.player == player.name);
            let median_us = time.map_or(f64::NAN, |time| time.median_us);
            let origin = if player.kind == Kind::Optimum { String::new() } else { player.origin.to_string() };
            vec![
                Cell::text(&player.name),
                Cell::text(player.world.name()),
                Cell::text(player.kind.name()),
                Cell::text(&player.about),
                Cell::text(origin),
                Cell::figure(median_us, format!("{median_us:.2}")),
            ]
        })
        .collect();
    page.push_str("<h2>Players</h2>\n");
    let untuned = players
        .iter()
        .filter(|player| {
            player.world == World::Queue && player.origin == Origin::Defaults && player.kind != Kind::Optimum
        })
        .map(|player| player.name.as_str())
        .collect::<Vec<&str>>();
    let tuned = players.iter().find_map(|player| match player.origin {
        Origin::Tuned { trials, .. } => Some(trials),
        _ => None,
    });
    if let Some(trials) = tuned {
        let _ = writeln!(
            page,
            "<p>Every tuned player had {trials} trials on the same training games, which are never played here.</p>"
        );
    }
    if !untuned.is_empty() {
        let _ = writeln!(page, "<p>With their defaults play: {}.</p>", escape(&untuned.join(", ")));
    }
    let header = ["player", "world", "kind", "what it does", "settings", "median decision µs"];
    let _ = writeln!(page, "<div class=\"wide\">{}</div>", table(&header, rows));
}

fn push_method(page: &mut String) {
    let _ = writeln!(
        page,
        "<h2>How to read this</h2>\n<ul>\n\
         <li>Missed: share of decision intervals whose 95th percentile of event-to-commit latency was above the objective, or in which \
         nothing was committed while records older than the objective waited.</li>\n\
         <li>Avoidable: the misses beyond those of the clairvoyant optimum, in games where it misses more than 1 %, for example because \
         the load is beyond the largest fleet. The objective counts as kept with at most 1 % avoidable misses.</li>\n\
         <li>Cost: on queue everything from request to release, executors, memory, storage, requests and warm spares, in dollars of a game.</li>\n\
         <li>Over bound: cost above the lower bound that a clairvoyant cannot undercut, as a share of the bound. A player can be below \
         it only by missing the objective more often.</li>\n\
         <li>Intervals: 95 % percentile bootstrap, resampled within traces, {} replicates; IQM: mean of the middle half of the games, \
         after Agarwal et al. (NeurIPS 2021). In summary.csv figures are means over seeds.</li>\n\
         <li>All players meet the same records, gateway signals, start-up delays and pre-emptions in a game, and all pass the same guardrails.</li>\n\
         </ul>",
        crate::stats::REPLICATES
    );
}

fn push_summary(page: &mut String, facts: &Facts<'_>) {
    let header = [
        "world",
        "trace",
        "player",
        "seeds",
        "missed %",
        "cost",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "executor-hours",
        "over bound %",
    ];
    let rows = facts
        .summary
        .iter()
        .map(|row| {
            let decimals = if row.world == World::Classic { 0 } else { 4 };
            vec![
                Cell::text(row.world.name()),
                Cell::text(&row.trace),
                Cell::text(&row.player),
                Cell::figure(row.seeds as f64, row.seeds.to_string()),
                Cell::interval(row.violation_rate, 100.0, 2),
                Cell::interval(row.cost, 1.0, decimals),
                Cell::figure(row.means.p50_ms, format!("{:.0}", row.means.p50_ms)),
                Cell::figure(row.means.p95_ms, format!("{:.0}", row.means.p95_ms)),
                Cell::figure(row.means.p99_ms, format!("{:.0}", row.means.p99_ms)),
                Cell::figure(row.means.executor_hours, format!("{:.2}", row.means.executor_hours)),
                Cell::percent(row.regret.estimate),
            ]
        })
        .collect();
    let _ = writeln!(
        page,
        "<h2>Every trace</h2>\n<details><summary>World, trace and player: the rows of summary.csv</summary><div class=\"wide\">{}</div></details>",
        table(&header, rows)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::players::{self, Player};
    use crate::run::{Ablations, GameKey, Outcome, Run};
    use crate::tables::{aggregate, pairwise, summarise};
    use crate::tuned::Tuned;

    fn players() -> Vec<Player> {
        let mut players = players::all(&Tuned::default(), 20, Some("x")).unwrap();
        let mut learned = players.iter().find(|player| player.name == "keda").unwrap().clone();
        (learned.name, learned.kind, learned.origin) = ("ppo".to_string(), Kind::Learned, Origin::Trained);
        players.push(learned);
        players
    }

    fn said(figures: &[(&str, f64, f64)]) -> Vec<String> {
        let mut runs = Vec::new();
        for trace in ["shock", "steady"] {
            for seed in 0..4 {
                for (player, violation_rate, cost) in figures {
                    let key = GameKey {
                        world: World::Queue,
                        trace: trace.to_string(),
                        player: player.to_string(),
                        ablations: Ablations::none(),
                        seed,
                    };
                    let outcome = Outcome { violation_rate: *violation_rate, cost: *cost, ..Outcome::UNKNOWN };
                    runs.push(Run { key, outcome });
                }
            }
        }
        let base = Ablations::none();
        verdicts(&players(), &summarise(&runs, &base), &aggregate(&runs, &base), &pairwise(&runs, &base), true)
    }

    #[test]
    fn a_learned_winner_is_called_one() {
        let said = said(&[("hpa", 0.2, 2.0), ("mpc", 0.005, 1.2), ("ppo", 0.001, 1.1), (OPTIMUM_BOUND, 0.0, 1.0)]);
        assert_eq!(
            said,
            [
                "queue: ppo keeps the objective at the lowest cost: 0.10 % missed at $1.1000, 10.0 % above the clairvoyant lower \
                 bound. Next is mpc: 0.50 % missed at $1.2000; a game of ppo is the better one with probability 1.00 (1.00 to 1.00).",
                "queue: ppo is alone on the Pareto front: nobody misses less, nobody costs less.",
                "queue: the best learned policy is ppo: 0.10 % missed at $1.1000. It beats every rival on both figures. It meets \
                 the bar of 1 % missed at 1.15 × the lower bound ($1.1500): its cost is 1.10 × the bound.",
                "queue: best by the objective, of 2 traces: ppo on 2 (shock, steady).",
            ]
        );
    }

    #[test]
    fn a_learned_loser_is_called_one_as_plainly() {
        let said = said(&[("hpa", 0.2, 1.0), ("mpc", 0.005, 1.2), ("ppo", 0.03, 1.3), (OPTIMUM_BOUND, 0.0, 1.0)]);
        assert!(said[0].starts_with("queue: mpc keeps the objective at the lowest cost"), "{}", said[0]);
        assert_eq!(
            said[1],
            "queue: on the Pareto front of violations and cost, from fewest violations to lowest cost: mpc, hpa."
        );
        assert!(said[2].contains("It is beaten on both figures by mpc. It misses the bar on violations and on cost"));
    }

    #[test]
    fn nobody_keeping_the_objective_is_said() {
        let said = said(&[("hpa", 0.2, 1.0), ("keda", 0.3, 0.5)]);
        assert!(
            said[0].starts_with("queue: no player keeps the objective on average; hpa comes closest"),
            "{}",
            said[0]
        );
        assert_eq!(said[2], "queue: no learned policy plays.");
    }

    #[test]
    fn drawings_in_a_page_shrink_and_do_not_share_ids() {
        let svg = "<?xml?><svg xmlns=\"x\" width=\"90\" height=\"60.5\"><clipPath id=\"kuva-clip-1\"/></svg>";
        assert_eq!(
            inline_svg(svg, "mine"),
            "<svg viewBox=\"0 0 90 60.5\" role=\"img\" xmlns=\"x\" width=\"90\" height=\"60.5\"><clipPath id=\"mine-clip-1\"/></svg>"
        );
    }

    #[test]
    fn names_cannot_break_the_page() {
        assert_eq!(Cell::text("<b>\"&").0, "&lt;b&gt;&quot;&amp;");
    }
}
