//! How the page looks: one style sheet, with colours for light and for dark.

use std::fmt::Write;

/// One colour for each series, in an order in which neighbours differ also for the colour-blind; on
/// light, on dark.
const COLORS: [(&str, &str); 10] = [
    ("#2166c4", "#6ea8ff"),
    ("#d9541e", "#ff8f5c"),
    ("#1c8a5a", "#4fcf95"),
    ("#8a3fb5", "#c98bf0"),
    ("#b8860b", "#e8bf4d"),
    ("#c2185b", "#ff7bac"),
    ("#00838f", "#4dd0de"),
    ("#5d4037", "#c4a092"),
    ("#607d8b", "#a7bcc7"),
    ("#222222", "#eeeeee"),
];

/// Dashes distinguish series where colours repeat, and where there are none.
const DASHES: [&str; 3] = ["none", "7 4", "2 3"];

const SHEET: &str = "
:root{color-scheme:light dark;--page:#fbfbfa;--card:#fff;--ink:#1d1f23;--soft:#62666d;--line:#e3e4e6;--best:#eaf4ec}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:36px 20px 60px}
h1{font-size:26px;line-height:1.2;margin:0 0 10px;letter-spacing:-.01em}
h2{font-size:16px;margin:0 0 2px}
p{margin:0;color:var(--soft)}
.facts{display:flex;flex-wrap:wrap;gap:6px 22px;margin:0 0 26px}
.facts b{color:var(--ink);font-weight:600}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:0 0 18px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:7px 12px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500;font-size:13px}
th:first-child,td:first-child{text-align:left}
th[colspan]{text-align:center}
tr:last-child td{border-bottom:0}
td.best{font-weight:650;background:var(--best)}
.keys{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 14px}
.keys label{display:inline-flex;align-items:center;gap:7px;cursor:pointer}
.keys input{accent-color:var(--soft);margin:0}
.keys svg{width:26px;height:10px}
.charts svg{width:100%;height:auto;display:block;margin:8px 0 26px}
text{fill:var(--soft);font:12px system-ui,sans-serif}
.middle{text-anchor:middle}
.end{text-anchor:end}
.name{fill:var(--ink)}
.grid{stroke:var(--line);fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line:hover{stroke-width:4}
footer{color:var(--soft);font-size:13px}
@media(prefers-color-scheme:dark){
:root{--page:#141518;--card:#1c1e22;--ink:#ececee;--soft:#9da2aa;--line:#2e3137;--best:#1f3327}
}
";

/// The style sheet for this number of series.
pub(super) fn sheet(series: usize) -> String {
    let mut sheet = SHEET.to_owned();
    let mut dark = String::new();
    for index in 0..series {
        let (light, on_dark) = COLORS[index % COLORS.len()];
        let dashes = DASHES[index / (COLORS.len() / 2) % DASHES.len()];
        // Writing to a string cannot fail.
        let _ = writeln!(
            sheet,
            ".s{index}{{stroke:{light};stroke-dasharray:{dashes}}}"
        );
        let _ = writeln!(
            sheet,
            "main:has(#k{index}:not(:checked)) .charts .s{index}{{display:none}}"
        );
        let _ = write!(dark, ".s{index}{{stroke:{on_dark}}}");
    }
    let _ = writeln!(sheet, "@media(prefers-color-scheme:dark){{{dark}}}");
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_that_share_a_color_differ_in_dashes() {
        let sheet = sheet(COLORS.len() + 2);
        assert!(sheet.contains(".s0{stroke:#2166c4;stroke-dasharray:none}"));
        assert!(sheet.contains(".s10{stroke:#2166c4;stroke-dasharray:2 3}"));
        assert_eq!(sheet.matches('{').count(), sheet.matches('}').count());
    }
}
