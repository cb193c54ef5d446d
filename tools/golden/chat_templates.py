"""What transformers renders from chat templates: writes tests/golden/chat/chat_templates.json.

Templates are those that verve has built in, those of crates/chat/tests/templates, and short snippets, each of which uses
one thing that templates do. A case holds its input and the text that came out, or null where transformers raised.

    python tools/golden/chat_templates.py
"""

import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as utils

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHAT = ROOT / "crates" / "chat"


class Clock:
    """2024-07-03 09:05:07, for strftime_now."""

    @staticmethod
    def now():
        return datetime.datetime(2024, 7, 3, 9, 5, 7)


utils.datetime = Clock


def render(source, messages, tools, ending, variables):
    """As PreTrainedTokenizerBase.apply_chat_template does, without a tokenizer."""
    messages = [{k: v for k, v in message.items() if v is not None} for message in messages]
    try:
        rendered, _ = utils.render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=source,
            add_generation_prompt=ending == "generation",
            **variables,
        )
        return rendered[0]
    except Exception:
        return None


def text(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, call_id="call00001"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the weather. <b>Today's</b> & \"tomorrow's\"; café ☕ 日本",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City, e.g. Zürich"},
                "days": {"type": "integer", "default": 3, "minimum": 1},
                "items": {"type": "array", "items": {"type": "number"}},
                "unit": {"enum": ["celsius", "fahrenheit", None, True, 1.5]},
                "where": {"type": "object", "properties": {"lat": {"type": "number"}, "any": {"type": ["string", "null"]}}},
            },
            "required": ["location"],
        },
    },
}
PLAIN_TOOL = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}

CONVERSATIONS = {
    "one": [text("user", "Hello!")],
    "spaces": [text("user", "  Hello \n\u00a0there\t\n")],
    "system": [text("system", "You are terse."), text("user", "Why is the sky blue?")],
    "turns": [
        text("user", "Hi"),
        text("assistant", "Hello! How are you? "),
        text("user", "Fine.\n\nYou?"),
    ],
    "answered": [
        text("system", " Be nice. "),
        text("user", "Hi"),
        text("assistant", "Hello"),
        text("user", "Bye"),
        text("assistant", "\nBye <b>you</b> & {{ all }} {% if %}"),
    ],
    "unicode": [text("user", "日本語 é\u0301 😀 \"quoted\" 'single' back\\slash")],
    "wrong_order": [text("user", "a"), text("user", "b")],
    "assistant_first": [text("assistant", "Hi, I am here."), text("user", "Good.")],
    "late_system": [text("user", "a"), text("assistant", "b"), text("system", "c"), text("user", "d")],
    "thinking": [
        text("user", "1+1?"),
        text("assistant", "<think>\nEasy.\n</think>\n\n2"),
        text("user", "2+2?"),
        text("assistant", "4", reasoning_content="\nHm.\n"),
    ],
    "calls": [
        text("system", "Use tools."),
        text("user", "Weather in Paris?"),
        {"role": "assistant", "tool_calls": [call("get_current_weather", {"location": "Paris", "days": 2, "unit": None, "x": 1.0, "y": 1e-7, "z": True, "deep": {"a": [1, [], {}], "é": "\n\u2028"}})]},
        text("tool", "{\"temp\": 20}", name="get_current_weather", tool_call_id="call00001"),
        text("assistant", "20 degrees."),
        text("user", "Thanks"),
    ],
    "two_calls": [
        text("user", "Weather in Paris and Rome?"),
        {"role": "assistant", "content": "Looking.", "tool_calls": [call("get_current_weather", {"location": "Paris"}), call("get_current_weather", {"location": "Rome"}, "call00002")]},
        text("tool", "20", tool_call_id="call00001"),
        text("tool", "25", tool_call_id="call00002"),
    ],
    "short_id": [
        text("user", "Weather?"),
        {"role": "assistant", "tool_calls": [call("now", {}, "x")]},
        text("tool", "noon", tool_call_id="x"),
    ],
    "parts": [text("user", [{"type": "text", "text": " Part one. "}, {"type": "text", "text": "Part two."}])],
    "parts_system": [text("system", [{"type": "text", "text": "Short."}]), text("user", "Hi")],
}

VARIANTS = [
    ("generation", None, {}),
    ("closed", None, {}),
    ("generation", [WEATHER, PLAIN_TOOL], {}),
    ("generation", None, {"enable_thinking": False}),
    ("generation", [WEATHER], {"tools_in_user_message": False, "date_string": "26 Jul 2024"}),
    ("closed", [PLAIN_TOOL], {"builtin_tools": ["code_interpreter", "brave_search", "wolfram_alpha"]}),
]

# Each is one thing that templates do. Rendered with `v`, a value with something of everything.
VALUE = {
    "s": " Hello, World \n", "e": "", "n": None, "t": True, "f": False, "i": 3, "neg": -7, "x": 2.5, "big": 1e20, "small": 1e-7, "whole": 2.0,
    "l": [3, 1, 2], "d": {"b": 1, "a": [1, "two", None, True, 2.0], "items": "not a method", "c": {"deep": "x"}},
    "rows": [{"k": "x", "n": 1}, {"k": "y", "n": 2}, {"k": "x", "n": 3}], "q": "it's \"so\"\\ \n\té", "html": "<a href='x'>&</a>",
}
SNIPPETS = [
    "{{ v.t }} {{ v.f }} {{ v.n }} {{ v.i }} {{ v.x }} {{ v.big }} {{ v.small }} {{ v.whole }} {{ nothing }}",
    "{{ v.l }} {{ v.d }} {{ [] }} {{ {} }} {{ (1, 2) }} {{ (1,) }}",
    "{{ v.q }} {{ [v.q] }} {{ ['a\\'b', \"c'd\", 'e\"f'] }}",
    "{{ v.d | tojson }}|{{ v.d | tojson(indent=2) }}|{{ v.d | tojson(indent=4) }}|{{ [] | tojson(indent=2) }}|{{ {} | tojson(indent=2) }}",
    "{{ v.q | tojson }} {{ v.html | tojson }} {{ v.q | tojson(ensure_ascii=True) }} {{ v.d | tojson(sort_keys=true) }} {{ v.l | tojson(separators=(',', ':')) }}",
    "{{ v.n | tojson }} {{ v.t | tojson }} {{ v.x | tojson }} {{ v.whole | tojson }} {{ v.big | tojson }} {{ v.small | tojson }} {{ '\\u2028\\x07\\x7f' | tojson }}",
    "{{ {1: 'a', none: 'b', true: 'c'} | tojson }} {{ (1, 2) | tojson }}",
    "{{ v.t ~ v.n ~ v.x ~ v.whole ~ v.i ~ 'x' ~ v.l }}",
    "{{ 'a' + 'b' * 3 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 7 % 2 == 1 }} {{ 1.0 + 2 }} {{ 4 / 2 }}",
    "{{ v.s | trim }}|{{ v.s.strip() }}|{{ v.s.lstrip() }}|{{ v.s.rstrip('\\n') }}|{{ 'xxaxx'.strip('x') }}|{{ 'xxaxx' | trim('x') }}",
    "{{ v.n | trim }}|{{ v.i | trim }}|{{ nothing | trim }}|{{ v.t | string }}|{{ v.x | string }}|{{ v.l | string }}",
    "{{ v.s.split(', ') }} {{ 'a b  c'.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a\\nb\\r\\nc'.splitlines() }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'bc')) }} {{ 'abc'.find('c') }} {{ 'abc'.index('b') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'aXbX'.count('X') }}",
    "{{ 'hello world'.title() }} {{ 'hello'.capitalize() }} {{ 'Hi'.upper() }} {{ 'Hi'.lower() }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'a=b'.partition('=') }}",
    "{{ ', '.join(['a', 'b']) }} {{ ['a', 1, none, 2.0] | join('-') }} {{ v.rows | join(',', attribute='k') }} {{ 'abc' | join('.') }}",
    "{% for k, val in v.d.items() %}{{ k }}={{ val }};{% endfor %} {% for k in v.d %}{{ k }}{% endfor %} {{ v.d.keys() | list }} {{ v.d.values() | list | length }} {{ v.d.get('zz') }} {{ v.d.get('zz', 'no') }} {{ v.d['items'] }}",
    "{% for k, val in v.d | items %}{{ k }};{% endfor %}{% for k, val in v.d | dictsort %}{{ k }};{% endfor %}",
    "{{ v.l[::-1] }} {{ v.l[1:] }} {{ v.l[:-1] }} {{ v.l[-1] }} {{ v.l[0:2] }} {{ 'abcdef'[::2] }} {{ 'abc'[::-1] }} {{ 'abc'[-1] }} {{ 'abc'[5:] }} {{ v.l[7] }}|",
    "{{ v.l | first }} {{ v.l | last }} {{ v.l | length }} {{ v.l | sort }} {{ v.l | sort(reverse=true) }} {{ v.l | reverse | list }} {{ v.l | sum }} {{ v.l | max }} {{ v.l | min }} {{ 'abc' | reverse }} {{ [] | first }}|",
    "{{ v.rows | map(attribute='k') | list }} {{ v.rows | map(attribute='k') | unique | join(',') }} {{ v.rows | selectattr('k', 'equalto', 'x') | map(attribute='n') | list }} {{ v.rows | rejectattr('k', '==', 'x') | list | length }} {{ v.l | select('gt', 1) | list }} {{ v.l | reject('odd') | list }} {{ ['a', 'b'] | map('upper') | list }}",
    "{{ v.rows | selectattr('zz') | list }} {{ v.rows | selectattr('zz', 'defined') | list }} {{ v.rows | sort(attribute='k') | map(attribute='n') | list }}",
    "{{ v.s is string }} {{ v.d is mapping }} {{ v.l is iterable }} {{ v.s is iterable }} {{ v.i is iterable }} {{ v.l is sequence }} {{ v.s is sequence }} {{ v.d is sequence }} {{ v.i is number }} {{ v.t is number }} {{ v.t is boolean }} {{ v.n is none }} {{ v.n is defined }} {{ nothing is defined }} {{ v.zz is undefined }} {{ v.t is true }} {{ v.f is false }} {{ v.i is integer }} {{ v.x is float }} {{ v.i is odd }} {{ v.i is eq 3 }} {{ v.i is in [3] }} {{ 3 is divisibleby 3 }} {{ 'a' is lower }} {{ v.i is not none }} {{ v.l is not string }}",
    "{{ 'World' in v.s }} {{ 'b' in v.d }} {{ 2 in v.l }} {{ 9 not in v.l }} {{ 'x' in nothing }} {{ not v.e }} {{ v.e or 'empty' }} {{ v.t and v.i }} {{ v.e and 1 }}|",
    "{{ v.e | default('d') }}|{{ v.e | default('d', true) }}|{{ nothing | default('d') }}|{{ v.n | default('d') }}|{{ v.n | default('d', boolean=true) }}|{{ nothing | length }}|{{ nothing | list }}|{{ nothing | upper }}|",
    "{{ v.i | int + 1 }} {{ '12' | int }} {{ 'x' | int }} {{ '1.5' | float }} {{ 'x' | float }} {{ 'x' | int(7) }} {{ 2.9 | int }} {{ '2.9' | int }} {{ true | int }} {{ none | int }} {{ 'ff' | int(base=16) }} {{ 'x' | float(default=1.5) }} {{ 2.567 | round(1) }} {{ v.neg | abs }} {{ 'a b' | wordcount }} {{ v.s | upper | trim }} {{ 'a-b' | replace('-', '+') }} {{ 'hello there' | title }} {{ 'hELLO' | capitalize }}",
    "{{ 'a\\nb\\n\\nc' | indent(2) }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\nb' | indent(width=1, first=true) }}",
    "{{ '%s has %d' | format('x', 3) }} {{ '{} {}'.format('a', 2) }}",
    "{% set ns = namespace(a=1, b='x') %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% set inner = i %}{% endfor %}{{ ns.a }} {{ ns.b }} {{ inner }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}{% for i in [1] %}{% set x = 3 %}{% endfor %}{{ x }}",
    "{% set block %} a {{ v.i }} {% endset %}[{{ block }}] {% set a, b = 1, 2 %}{{ a }}{{ b }} {{ block | length }}",
    "{% for i in range(5) if i % 2 == 0 %}{{ loop.index }}/{{ loop.length }}:{{ i }}{{ ',' if not loop.last }}{% else %}none{% endfor %}{% for i in [] %}x{% else %}none{% endfor %}",
    "{% for i in ['a', 'b', 'c'] %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('x', 'y') }} {% endfor %}",
    "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}{% for x in [[1, [2]], [3, []]] recursive %}({{ x }}){% endfor %}",
    "{% macro m(a, b='d', c=none) %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ m(1) }}{{ m(1, c=2) }}{{ m(b='x', a=0) }}",
    "{% macro wrap() %}[{{ caller() }}]{% endmacro %}{% call wrap() %}in{% endcall %}",
    "{% macro count(n) %}{{ n }}{% if n > 0 %},{{ count(n - 1) }}{% endif %}{% endmacro %}{{ count(4) }}",
    "  {% if true %}\n  a\n  {% endif %}\n  b {% if true %} c {% endif %} \n  {# comment #}\n  d\n  {{- ' e ' -}}  \n f",
    "a\n  {%- if true -%}  \n b \n {%- endif %}\n\n c\n{%+ if true %}x{% endif +%}\n y",
    "a\r\nb\r\n{% if true %}\r\nc{% endif %}\r\n",
    "ends with a line\n",
    "ends with two\n\n",
    "{% raw %}{{ not }} {% this %}{% endraw %} {{ '{{' }} {{ '}}' }} {{ \"{%\" }}",
    "{% generation %}a{% set z = 1 %}{% endgeneration %}{{ z }}|{%- generation %} b {%- endgeneration %}",
    "{{ strftime_now('%d %b %Y %H:%M:%S %A %j %y %-d %B %p %I') }}",
    "{{ raise_exception('no ' ~ v.i) }}",
    "{{ v.zz.deeper }}", "{{ v.s + v.i }}", "{{ v.l.append(1) }}", "{{ nothing() }}", "{% if %}", "{{ v.s | nofilter }}",
    "{{ 'a' if v.i > 2 else 'b' }} {{ 'a' if false }}| {{ (v.i == 3) != (v.x == 2.5) }} {{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1} }}",
    "{{ dict(a=1, b='x') }} {{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ [1] + [2] }} {{ {'a': 1}.items() | list }} {{ (1, 2) + (3,) }}",
    "{{ 'tab\\there \\x41 \\u00e9 \\\\ \\'' }} {{ \"a\nb\" }} {{ 1_000 }} {{ 0x10 }} {{ 1e3 }} {{ 0.5 }} {{ True }} {{ None }} {{ False }}",
    "{%- for m in messages %}{{ m['role'] }}{{ m.content }}{{ m.tool_calls is defined }}{{ m['tool_calls'] }}{{ m.get('name', 'anon') }}{% endfor %}{{ tools }}{{ documents }}{{ tools is none }}{{ add_generation_prompt }}",
    "{{ v.html }} {{ v.html | e }} {{ v.html | safe }} {{ v.html | escape | length }} {{ '\"' | e }} {{ 5 | e }} {{ none | e }}",
    "{{ v.d.c.deep }} {{ v['d']['c']['deep'] }} {{ v.d['a'][1] }} {{ v.d.a.0 }} {{ v | length }} {{ v.rows[0].k }} {{ v.rows[-1]['n'] }}",
    "{% filter upper %}abc {{ v.i }}{% endfilter %} {% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}",
    "{{ v.rows | groupby('k') | map('first') | list }} {{ v.rows | sum(attribute='n') }} {{ [1, 2.5] | sum(start=1) }} {{ dict([('a', 1)], b=2) }} {{ dict({'a': 1}) }}",
    "{{ v.l is defined and v.l | length > 2 }} {{ not v.l is string }} {{ v.l | length == 3 and not v.f }} {{ -v.i }} {{ not not v.i }}",
    "{{ 'ß'.upper() }} {{ 'İ'.lower() }} {{ \"it's o'clock\".title() }} {{ \"it's o'clock\" | title }} {{ 'éa'.capitalize() }}",
]


def main():
    cases = []
    folders = [CHAT / "src" / "builtin", CHAT / "tests" / "templates"]
    specials = {"bos_token": "<bos>", "eos_token": "</eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    for path in sorted(p for folder in folders for p in folder.glob("*.jinja")):
        source = path.read_bytes().decode()
        for name, messages in CONVERSATIONS.items():
            for number, (ending, tools, variables) in enumerate(VARIANTS):
                if number >= 2 and path.parent.name == "builtin":
                    continue
                out = render(source, messages, tools, ending, {**specials, **variables})
                cases.append({"template": path.name, "conversation": name, "variant": number, "out": out})
    messages = CONVERSATIONS["turns"]
    snippets = []
    for source in SNIPPETS:
        snippets.append({"source": source, "out": render(source, messages, None, "generation", {"v": VALUE})})
    golden = {
        "specials": specials,
        "conversations": CONVERSATIONS,
        "variants": [{"ending": e, "tools": t, "variables": v} for e, t, v in VARIANTS],
        "cases": cases,
        "value": VALUE,
        "snippets": snippets,
    }
    out = ROOT / "tests" / "golden" / "chat" / "chat_templates.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")
    raised = [s["source"] for s in snippets if s["out"] is None]
    print(f"{out.stat().st_size} bytes, {len(cases)} cases, {sum(c['out'] is None for c in cases)} raised")
    print("\n".join(raised))


if __name__ == "__main__":
    main()
