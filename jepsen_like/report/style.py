"""How the page looks."""

STYLE = """
:root { --ground: #fff; --ink: #1c2128; --faint: #5d6670; --line: #e2e6ea; --soft: #f5f7f9;
  --valid: #1a7f4b; --invalid: #b42318; --unknown: #a15c00; --own: #fff3d6; --link: #1f5fbf; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --ink: #e6e9ed;
  --faint: #98a1ab; --line: #2a3038; --soft: #1b2026; --valid: #4cc38a; --invalid: #ff7a6e;
  --unknown: #f0b429; --own: #3a3017; --link: #7fb0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 60px; }
header { border-left: 6px solid var(--faint); padding: 2px 0 2px 18px; margin-bottom: 30px; }
header h1 { margin: 0; font-size: 34px; line-height: 1.2; }
header p, header ul { margin: 6px 0 0; max-width: 80ch; overflow-wrap: anywhere; }
header .what { color: var(--faint); margin: 0; }
header.valid { border-color: var(--valid); } header.valid h1 { color: var(--valid); }
header.invalid { border-color: var(--invalid); } header.invalid h1 { color: var(--invalid); }
header.unknown { border-color: var(--unknown); } header.unknown h1 { color: var(--unknown); }
.bug { color: var(--unknown); }
section { margin: 0 0 34px; }
h2 { font-size: 19px; margin: 28px 0 10px; }
h3 { font-size: 16px; margin: 22px 0 6px; }
a { color: var(--link); }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; margin: 0 0 12px;
  padding: 10px 14px; overflow-x: auto; }
code, .lines { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
code { font-size: 13px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 4px 18px 4px 0;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--faint); font-weight: 500; font-size: 13px; }
.facts th { color: var(--faint); font-weight: 400; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; }
.faint { color: var(--faint); font-size: 13.5px; }
picture img { display: block; width: 100%; height: auto; }
details { margin: 6px 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 8px 0 14px; border: 1px solid var(--line); border-radius: 6px; }
.tall { max-height: 460px; overflow-y: auto; }
.tall .wide { border: 0; margin: 0; }
.lines { font-size: 12px; line-height: 1.4; width: 100%; }
.lines th, .lines td { padding: 3px 12px 3px 8px; }
.lines thead th { font-size: 11.5px; position: sticky; top: 0; background: var(--soft); }
.lines td { overflow-wrap: break-word; }
.lines td:nth-child(-n+6) { white-space: nowrap; }
.lines td.text { overflow-wrap: anywhere; min-width: 16ch; }
.lines tr:last-child td { border-bottom: 0; }
.own td { background: var(--own); }
.world td { color: var(--faint); }
.gap td { color: var(--faint); padding: 0 8px; }
td.info { color: var(--unknown); }
td.fail { color: var(--invalid); }
"""
