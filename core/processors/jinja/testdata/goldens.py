"""Writes goldens.json: what Jinja2 3.1.6, set up as transformers 5 does, makes of snippets and of the templates in the folder templates.

Usage, in the folder above: python testdata/goldens.py >testdata/goldens.json
"""
import datetime
import json
import pathlib
import sys

from transformers.utils import chat_template_utils


class Now(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2026, 3, 7, 9, 5, 2, 42)


chat_template_utils.datetime = Now
compile_template = chat_template_utils._cached_compile_jinja_template.__wrapped__ if hasattr(
    chat_template_utils._cached_compile_jinja_template, "__wrapped__") else chat_template_utils._compile_jinja_template

DATA = {
    "s": "Hello, wörld", "empty": "", "spaces": "  a b\t\n", "n": 7, "neg": -7, "f": 2.5, "big": 1e22, "small": 1.5e-7, "yes": True, "no": False,
    "nothing": None, "list": [3, 1, 2], "words": ["b", "A", "c"], "nested": [[1, 2], [3]], "none_list": [],
    "d": {"z": 1, "a": {"k": "v"}, "items": [1], "get": 5}, "lines": "one\ntwo\r\nthree\n", "quote": "it's \"q\" \\ \n\t\x01é日👍<&>",
    "people": [{"name": "Ann", "age": 30, "tags": ["x"]}, {"name": "bob", "age": 25}, {"name": "Cid", "age": 30, "tags": []}],
    "float_int": 3.0, "huge": 123456789012345678901234567890, "emoji": "a👍b", "upper": "ABC", "kw": {"indent": 2},
}

SNIPPETS = r"""
plain text
{{ s }}|{{ n }}|{{ f }}|{{ big }}|{{ small }}|{{ yes }}|{{ no }}|{{ nothing }}|{{ missing }}|{{ float_int }}|{{ huge }}
{{ list }}|{{ d }}|{{ (1, 'a') }}|{{ (1,) }}|{{ () }}|{{ [] }}|{{ {} }}|{{ [none, true, 1.0, "it's", 'q"', 'b\'"'] }}
{{ quote }}|{{ [quote] }}
{{ 'a' 'b' "c" }}|{{ '\n\t\\\'\"\x41\u00e9\U0001F44D\101\q\a' }}
{{ 1 + 2 * 3 - 4 }}|{{ 7 / 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ 7.5 // 2 }}|{{ 7.5 % 2 }}|{{ 4 / 2 }}
{{ 0x1F }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1_000 }}|{{ 1.5e3 }}|{{ 1e-5 }}|{{ 1e16 }}|{{ 123456789.125 }}|{{ 0.1 + 0.2 }}|{{ 1e100 }}|{{ 100000.0 }}
{{ -n }}|{{ +n }}|{{ - 2 ** 2 }}|{{ -n|abs }}|{{ (-n)|abs }}|{{ not n }}|{{ not not n }}|{{ -1.5 }}
{{ true + true }}|{{ 'ab' * 3 }}|{{ [1] * 2 }}|{{ [1] + [2] }}|{{ (1,) + (2,) }}|{{ 2 * 'x' }}
{{ 'a' ~ 1 ~ none ~ missing ~ 2.0 ~ [1] }}|{{ 1 ~ '2' + '3' }}|{{ 'x' ~ 1 * 2 }}
{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ 1 == 1.0 }}|{{ 1 == true }}|{{ 'a' < 'b' }}|{{ [1,2] < [1,3] }}|{{ none == none }}|{{ none == missing }}|{{ missing == other }}|{{ '1' == 1 }}|{{ 'a' != 'b' }}
{{ d == {'z': 1} }}|{{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }}|{{ [1] == (1,) }}|{{ list == [3, 1, 2] }}
{{ 1 in list }}|{{ 5 not in list }}|{{ 'z' in d }}|{{ 'ell' in s }}|{{ 'x' in missing }}|{{ not 1 in list }}|{{ 1 in (1, 2) }}|{{ '' in s }}
{{ n and s }}|{{ empty or 'x' }}|{{ none or missing or 0 }}|{{ 0 and missing.x }}|{{ 'a' if n else 'b' }}|{{ 'a' if empty }}|{{ 1 if 0 else 2 if 0 else 3 }}
{{ d.z }}|{{ d['a']['k'] }}|{{ d.a.k }}|{{ d.nope }}|{{ d['nope'] }}|{{ list[0] }}|{{ list[-1] }}|{{ list[9] }}|{{ list.0 }}|{{ s[1] }}|{{ s[-1] }}|{{ emoji[1] }}|{{ s[99] }}
{{ d['items'] }}|{{ d['get'] }}|{{ d.get('z') }}|{{ d.get('q') }}|{{ d.get('q', 9) }}|{{ d.items() | list }}|{{ d.keys() | list }}|{{ d.values() | list }}
{{ list[1:] }}|{{ list[:-1] }}|{{ list[::-1] }}|{{ list[::2] }}|{{ s[1:4] }}|{{ s[::-1] }}|{{ emoji[::-1] }}|{{ list[5:] }}|{{ s[-3:] }}|{{ (1,2,3)[:2] }}|{{ list[2:0:-1] }}|{{ list[none:none] }}
{% if n > 5 %}big{% elif n > 2 %}mid{% else %}small{% endif %}|{% if missing %}a{% endif %}|{% if none_list %}a{% elif d %}b{% endif %}
{% for x in list %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}|{% for x in none_list %}{{ x }}{% else %}none{% endfor %}|{% for x in missing %}x{% else %}m{% endfor %}
{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}
{% for x in list %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }};{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}|{% for k in d %}{{ k }}{% endfor %}|{% for c in 'héy' %}{{ c }}-{% endfor %}|{% for a, b in [[1, 2], (3, 4), 'xy'] %}{{ a }}{{ b }}{% endfor %}
{% for x in list if x > 1 %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% endfor %}|{% for x in range(3) %}{{ x }}{% endfor %}|{% for x in range(5, 1, -2) %}{{ x }}{% endfor %}
{% set ns = namespace(stop=false) %}{% for x in list if not ns.stop %}{{ x }}{% if x == 1 %}{% set ns.stop = true %}{% endif %}{% endfor %}
{% set ns = namespace(stop=false) %}{% for x in [3, 1, 2, 5] if not ns.stop %}{{ x }}{% if x == 1 %}{% set ns.stop = true %}{% endif %}{{ loop.last }}{% endfor %}
{% for x in list %}{% for y in nested %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index }} {% endfor %}
{% for item in nested recursive %}{% if item is iterable %}({{ loop(item) }}){% else %}{{ item }}@{{ loop.depth }}{% endif %}{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% set x = 1 %}{% for y in list %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}|{% if true %}{% set x = 5 %}{% endif %}{{ x }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}|{% set t = 1, 2 %}{{ t }}|{% set ns = namespace(a=1, **kw) %}{% set ns.b = ns.a + 1 %}{{ ns.a }}{{ ns.b }}{{ ns.indent }}{{ ns.c }}|{{ ns['a'] }}
{% set block %}  in {{ n }}  {% endset %}[{{ block }}]|{% set t | upper | trim %} up {{ s }} {% endset %}[{{ t }}]
{% macro m(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}|{{ m(1, 2, 3, 4, d=5) }}|{{ m(b=1, a=2) }}|{{ m() }}|{{ m.name }}|{{ m.arguments }}
{% macro f(n) %}{{ n }}{% if n > 0 %},{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(4) }}|{% macro g(x, y=x ~ '!') %}{{ y }}{% endmacro %}{{ g('a') }}
{% macro box(t) %}<{{ t }}>{{ caller('in') }}</{{ t }}>{% endmacro %}{% call(x) box('b') %}{{ x }}{{ n }}{% endcall %}
{% macro later() %}{{ defined_later }}{% endmacro %}{{ later() }}|{% set defined_later = 3 %}{{ later() }}
{% macro outer() %}{{ s }}{% set s = 'changed' %}{{ s }}{% endmacro %}{{ outer() }}|{{ s }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% set n = 9 %}{{ n }}{% endwith %}{{ a }}{{ n }}
{% filter upper %}abc {{ s }}{% endfilter %}|{% raw %}{{ raw }} {% if %}{% endraw %}|{# comment #}|{#- c -#} x
{% generation %}in {{ n }}{% set q = 2 %}{% endgeneration %}{{ q }}|{% set ns = namespace(q=1) %}{% generation %}{% set ns.q = 3 %}{% endgeneration %}{{ ns.q }}
{{ s | upper }}|{{ s | lower }}|{{ s | title }}|{{ s | capitalize }}|{{ s | length }}|{{ emoji | length }}|{{ s | count }}|{{ 'ßx' | upper }}|{{ "it's a-b c" | title }}
{{ spaces | trim }}|{{ 'xxaxx' | trim('x') }}|{{ s | replace('l', 'L') }}|{{ s | replace('l', 'L', 1) }}|{{ s | first }}|{{ s | last }}|{{ list | first }}|{{ list | last }}|{{ none_list | first }}
{{ list | join }}|{{ list | join(', ') }}|{{ people | join('-', attribute='name') }}|{{ words | join(d='+') }}|{{ ['a', none, 1.0, missing] | join('|') }}
{{ list | sort }}|{{ list | sort(reverse=true) }}|{{ words | sort }}|{{ words | sort(case_sensitive=true) }}|{{ people | sort(attribute='age') | map(attribute='name') | list }}|{{ people | sort(attribute='age,name') | map(attribute='name') | join }}
{{ list | reverse | list }}|{{ s | reverse }}|{{ list | max }}|{{ list | min }}|{{ list | sum }}|{{ people | sum(attribute='age') }}|{{ people | map(attribute='age') | max }}|{{ [1, 2.5] | sum }}|{{ [[1], [2]] | sum(start=[]) }}
{{ words | map('upper') | list }}|{{ people | map(attribute='tags', default='-') | list }}|{{ people | map(attribute='name.0') | list }}|{{ words | map('replace', 'b', 'q') | join }}|{{ list | map('string') | list }}
{{ list | select('odd') | list }}|{{ list | reject('odd') | list }}|{{ list | select('gt', 1) | list }}|{{ list | select | list }}|{{ [0, 1, ''] | reject | list }}|{{ words | select('in', ['b', 'c']) | list }}
{{ people | selectattr('tags') | map(attribute='name') | list }}|{{ people | selectattr('age', 'equalto', 30) | list | length }}|{{ people | rejectattr('age', '==', 30) | map(attribute='name') | join }}|{{ people | selectattr('tags', 'defined') | list | length }}
{{ people | groupby('age') | list | length }}|{% for age, group in people | groupby('age') %}{{ age }}:{{ group | map(attribute='name') | join(',') }};{% endfor %}|{% for g in people | groupby('age') %}{{ g.grouper }}{{ g.list | length }}{% endfor %}
{{ d | items | list }}|{{ d | dictsort }}|{{ {'b': 1, 'A': 2} | dictsort }}|{{ {'b': 1, 'A': 2} | dictsort(true) }}|{{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }}|{{ missing | items | list }}
{{ missing | default('x') }}|{{ empty | default('x') }}|{{ empty | default('x', true) }}|{{ nothing | d('y', boolean=true) }}|{{ nothing | d('y') }}|{{ d.nope.deeper | default('z') if false else 'w' }}
{{ quote | tojson }}|{{ d | tojson }}|{{ [1, 2.0, none, true, 'x', 1e22, 1.5e-7] | tojson }}|{{ {} | tojson }}|{{ [] | tojson }}|{{ (1, 2) | tojson }}|{{ huge | tojson }}
{{ d | tojson(indent=2) }}|{{ [] | tojson(indent=2) }}|{{ {'a': [], 'b': {}} | tojson(indent=4) }}|{{ [1, [2]] | tojson(indent=1) }}|{{ d | tojson(**kw) }}
{{ d | tojson(sort_keys=true) }}|{{ d | tojson(separators=(',', ':')) }}|{{ quote | tojson(ensure_ascii=true) }}|{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}|{{ d | tojson(indent='--') }}
{{ '12' | int }}|{{ 'x' | int }}|{{ 'x' | int(5) }}|{{ '0x1f' | int(base=16) }}|{{ 3.9 | int }}|{{ '3.5' | float }}|{{ 'q' | float }}|{{ 7 | string }}|{{ 2.675 | round(2) }}|{{ 2.5 | round }}|{{ 2.1 | round(method='ceil') }}|{{ 3 | float }}|{{ '1e3' | int }}
{{ s | list }}|{{ d | list }}|{{ 'a b  c' | wordcount }}|{{ [1, 1, 2] | unique | list }}|{{ ['a', 'A', 'b'] | unique | list }}|{{ range(7) | batch(3) | list }}|{{ range(7) | batch(3, 'x') | list }}|{{ range(7) | slice(3) | list }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('> ') }}|{{ '%s-%d' | format('x', 3) }}|{{ '%05.2f|%x|%r|%%|%5s|%-5s|' % (3.14159, 255, 'q', 'a', 'b') }}
{{ '<a&"\'>' | escape }}|{{ '<a>' | e }}|{{ '<a>' | safe }}|{{ 'a' | center(5) }}|{{ 'hello world foo' | truncate(9) }}|{{ 'hello world foo' | truncate(9, true, '..') }}|{{ 'abc' | truncate(255) }}|{{ list | attr('x') }}
{{ s.upper() }}|{{ s.lower() }}|{{ s.title() }}|{{ upper.lower() }}|{{ 'aBc'.swapcase() }}|{{ 'abc def'.capitalize() }}|{{ spaces.strip() }}|{{ spaces.lstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xyaxy'.rstrip('yx') }}|{{ 'xyaxy'.lstrip('yx') }}
{{ 'a,b,,c'.split(',') }}|{{ ' a  b '.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ 'a b c'.split(none, 1) }}|{{ 'abc'.split('x') }}|{{ lines.splitlines() }}|{{ lines.splitlines(true) }}|{{ 'a-b-c'.partition('-') }}|{{ 'a-b-c'.rpartition('-') }}
{{ s.startswith('Hell') }}|{{ s.endswith('x') }}|{{ s.startswith(('a', 'H')) }}|{{ s.find('l') }}|{{ s.find('q') }}|{{ s.rfind('l') }}|{{ s.index('w') }}|{{ s.count('l') }}|{{ s.replace('l', 'L', 2) }}|{{ s.startswith('l', 2) }}|{{ s.find('l', 4) }}
{{ 'abc'.isalpha() }}|{{ 'ab1'.isalnum() }}|{{ '12'.isdigit() }}|{{ '12'.isdecimal() }}|{{ '½'.isnumeric() }}|{{ ' '.isspace() }}|{{ 'AB'.isupper() }}|{{ 'ab'.islower() }}|{{ 'Ab Cd'.istitle() }}|{{ ''.isalpha() }}
{{ ', '.join(words) }}|{{ 'x'.ljust(3, '.') }}|{{ 'x'.rjust(3) }}|{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'x'.center(4, '*') }}|{{ 'prefix-x'.removeprefix('prefix-') }}|{{ 'x.py'.removesuffix('.py') }}|{{ '{} {a} {0}'.format(1, a=2) if false }}
{{ '{} and {}'.format('x', 2) }}|{{ '{0}{1}{0} {a} {{}}'.format('x', 'y', a=3) }}|{{ '{:>5}|{:<5}|{:^5}|{:05.1f}|{:,}'.format('a', 'b', 'c', 3.14159, 1234567) }}
{{ list.index(1) }}|{{ list.count(3) }}|{{ d.copy() == d }}|{{ s.nope is defined }}
{{ s is string }}|{{ n is number }}|{{ f is float }}|{{ n is integer }}|{{ yes is boolean }}|{{ yes is number }}|{{ yes is integer }}|{{ d is mapping }}|{{ list is sequence }}|{{ s is sequence }}|{{ d is sequence }}|{{ list is iterable }}|{{ s is iterable }}|{{ n is iterable }}|{{ nothing is none }}|{{ range is callable }}
{{ missing is defined }}|{{ missing is undefined }}|{{ s is defined }}|{{ d.nope is defined }}|{{ missing is string }}|{{ missing is iterable }}|{{ missing is sequence }}|{{ missing is mapping }}|{{ missing is none }}|{{ nothing is defined }}|{{ missing is not defined }}|{{ nothing is iterable }}
{{ 3 is odd }}|{{ 3 is even }}|{{ 6 is divisibleby 3 }}|{{ 6 is divisibleby(4) }}|{{ 1 is eq 1 }}|{{ 1 is ne(2) }}|{{ 1 is lt 2 }}|{{ 1 is ge 2 }}|{{ 1 is in [1] }}|{{ 'a' is in('abc') }}|{{ none is sameas none }}|{{ yes is true }}|{{ no is false }}|{{ 1 is true }}|{{ 'ab' is lower }}|{{ 'AB' is upper }}|{{ 'upper' is filter }}|{{ 'odd' is test }}
{{ range(3) | list }}|{{ range(1, 4) | list }}|{{ range(5)[2] }}|{{ range(3) | length }}|{{ dict(a=1, b=2) }}|{{ dict({'x': 1}, y=2) }}|{{ dict([['a', 1]]) }}|{{ 2 in range(3) }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}|{% set j = joiner(', ') %}{{ j() }}a{{ j() }}b{{ j() }}c
{{ strftime_now('%Y-%m-%d %H:%M:%S') }}|{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%A, %B %-d %y %j %p %I %a %f %%') }}
{{ d.a['k'] if d.a is defined and d.a.k is string and not (d.a.k == 'w') else 'no' }}|{{ (n if n > 3 else 0) + 1 }}|{{ n > 3 and 'y' or 'n' }}
{{ [1, 2, 3] | map('string') | map('length') | sum }}|{{ (list | sort)[0] }}|{{ list | sort | first ~ 'x' }}|{{ ('a' ~ 'b') | upper }}|{{ -list[0] }}|{{ d.get('a').get('k').upper() }}
{{ 'a' in 'abc' and 'b' not in 'ac' }}|{{ not 'a' in 'abc' }}|{{ 1 if 'x' in {'x': 1} }}|{{ [] in [[]] }}|{{ s in [s] }}|{{ none in [none] }}
{{ s | upper | lower | replace('h', 'J') | trim | length }}|{{ "a" "b" | upper }}|{{ 1.0 }}|{{ 1.50 }}|{{ 3 * 1.0 }}|{{ 10 // 3.0 }}|{{ 1e3 }}|{{ 2 ** 0.5 }}
{{ messages is defined }}|{{ namespace is defined }}|{{ raise_exception is defined }}|{{ loop is defined }}
{% for p in people %}{% set ns = namespace(x=loop.index) %}{% if p.tags is defined and p.tags %}{{ p.name ~ ns.x }}{% endif %}{{ p['tags'] | default([], true) | length }}{% endfor %}
{% for k, v in {'a': 1, 'b': 2} | items %}{{ k ~ v }}{{ ',' if not loop.last }}{% endfor %}|{% for i, p in [(0, 'x'), (1, 'y')] %}{{ i }}{{ p }}{% endfor %}|{% for (a, (b, c)) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{%- macro a(x) -%} {{ x }} {%- endmacro -%} {%- macro b(y) -%} [{{ a(y) }}] {%- endmacro -%} {{ b('q') }}|{% set f = a %}{{ f(3) }}|{{ [a][0](4) }}
{{ none_list | length == 0 }}|{{ people | length > 2 }}|{{ (people | map(attribute='name') | list)[-1] }}|{{ people[-1].name }}|{{ people[1:] | map(attribute='age') | list }}|{{ people | last }}
{{ 'x' | default }}|{{ (missing | default({})).get('a', 'b') }}|{{ missing | length }}|{{ missing | list }}|{{ missing | join }}|{{ missing | upper }}|{{ missing | trim }}|{{ missing | string }}|
{{ true | tojson }}|{{ none | tojson }}|{{ 'é' | tojson }}|{{ '\u2028' | tojson }}|{{ '</script>' | tojson }}|{{ 1.0 | tojson }}|{{ "\x7f" | tojson }}
{{ "日本語"[1] }}|{{ "日本語" | length }}|{{ "日本語" | list }}|{{ 'ǅ' | lower }}|{{ 'ΣΑΣ'.lower() }}|{{ 'İ'.lower() | length }}|{{ 'ŉ'.upper() }}|{{ 'ﬁ' | capitalize }}
{{ 'a\tb' }}|{{ ['a\tb\x00\x7f\u200b\xa0é'] }}|{{ {'k': 'it\'s'} }}|{{ [1.0, -0.0, 1e-4, 0.00001, 123456789012345680.0] }}
{{ 9223372036854775807 }}|{{ -3 // 2 }}|{{ 5 // -2 }}|{{ 1 / 3 }}|{{ 10 ** 15 }}|{{ 7 % 7 }}|{{ 0 ** 0 }}|{{ 1.5 % 1 }}|{{ -1.5 % 1 }}
{% if x is defined and x %}a{% endif %}{% if not x is defined %}b{% endif %}{% if x is not none %}c{% endif %}{% if x == none %}d{% endif %}{% if (x or none) is none %}e{% endif %}
{% set x = namespace(v=[]) %}{% for i in list %}{% set x.v = x.v + [i * 2] %}{% endfor %}{{ x.v }}|{% set y = x %}{% set y.v = 1 %}{{ x.v }}
{% set content = 'a</think>b' %}{{ content.split('</think>')[0].split('<think>')[-1] }}|{{ content.split('</think>')[-1].lstrip('\n') }}|{{ (content.split('</think>') | last) }}|{{ content.rsplit('</think>', 1)[1] }}
{{ d.pop is defined }}|{{ d.update is defined }}|{{ list.append is defined }}|{{ d.__class__ is defined }}|{{ ''.__class__ is defined }}|{{ s.format is defined }}|{{ d.keys is defined }}
{% for x in list %}{% if loop.index0 % 2 == 0 %}e{% else %}o{% endif %}{% else %}{% endfor %}{% for x in [] %}{% endfor %}{% if 1 %}{% else %}{% endif %}|{%if n%}{{n}}{%endif%}{{n}}{{-n}}{{+n}}{{ - n }}
{{ people | tojson(indent=1) }}
{{ 1, 2 }}|{{ (1) }}|{% set z = (1, 2), %}{{ z }}|{% print 1, 's' %}

"""

# Snippets of several lines, each ended by a line of its own.
MANY = r"""
  {% if true %}  
    a
  {% endif %}  
b
=====
{%- if true %}  x  {% endif -%}   
  y
=====
   {%+ if true %}a
{% endif +%}
b
=====
<div>
    {% for x in list %}
        {# c #}
        {{ x }}
    {% endfor %}

</div>
=====
a {# c #}
   {#- c -#}
   b  {# d +#}
c
=====
  {% raw %}  
 {{ x }} 
  {% endraw %}  
z
=====
x	{% raw -%}  
 {{ x }} 
  {%- endraw -%}  
z

=====
{{ {'a': 1,
    'b': [1,
 2,],} }}|{{ [1, 2][
0] }}
=====
{% set x %}
  a
  {% if true %}
  b
  {% endif %}
{% endset %}
[{{ x }}]
=====
{% macro m() %}
  a
{% endmacro %}
{{ m() }}{{ m() -}}
  b
=====
{{ 'a' -}}

  {{ 'b' }}

{{- 'c' }}


=====
{%- for x in list -%}
  {{ x }}
{%- endfor %}
"""

# What must be an error, at the latest when it is rendered.
ERRORS = r"""
{{ missing.x }}
{{ missing['x'] }}
{{ missing() }}
{{ missing + 1 }}
{{ 'a' + missing }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ none + 'a' }}
{{ [1] + 'a' }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ 1 in 5 }}
{{ n() }}
{{ n.x.y }}
{{ s.nope() }}
{{ 5 | length }}
{{ n | first }}
{{ none | list }}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{{ missing | tojson }}
{{ raise_exception('stop') }}
{% if true %}
{% endif %}
{% for %}{% endfor %}
{% for x in list %}
{{ }}
{{ 1 + }}
{{ 'a
{{ (1 }}
{{ 1) }}
{{ [1}}
{{ a b }}
{{ 1 | nope }}
{{ 1 is nope }}
{% nope %}
{% include 'x' %}
{% set 1 = 2 %}
{% set x.y = 2 %}
{% set d.z = 2 %}
{{ x = 1 }}
{# open
{% raw %} open
{{ open
{% open
{% break %}
{% macro m(a %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}
{% macro m(a) %}{% endmacro %}{{ m(q=2) }}
{{ m(a=1, 2) }}
{{ dict(1) }}
{{ s.split('') }}
{{ list.append(1) }}
{{ d.update({}) }}
{{ d.pop('z') }}
{{ s.index('q') }}
{{ s.__class__.__mro__ }}
{{ range(10000000) }}
{{ {[1]: 2} }}
{{ d | join('x', 1, 2, 3) }}
{{ words | map('nope') | list }}
{{ words | map(nope='x') | list }}
{{ [1, 'a'] | sort }}
{{ s | replace('a') }}
{{ '%d' | format('x') }}
{{ 'a' * 'b' }}
{{ -s }}
{{ 1 ! 2 }}
{{ 'x' is in }}
{% if n %}{% else %}{% else %}{% endif %}
{% elif n %}
{% endfor %}
{% set %}
{% set x %}
{% call 1 %}{% endcall %}
{{ loop.index }}
{% for x in list %}{{ loop.nope.x }}{% endfor %}
{% set ns = namespace() %}{% set ns._x = 1 %}
{{ d | dictsort(by='x') }}
{{ 7 is divisibleby 0 }}
"""


def text(rendered):
    try:
        return {"rendered": rendered()}
    except Exception as e:  # whatever it is, ours must be an error too
        return {"error": type(e).__name__}


def main():
    cases = []

    def add(name, source, fails):
        cases.append({"name": name, "source": source, "data": "snippets", **text(lambda: compile_template(source).render(**DATA))})
        if ("error" in cases[-1]) != fails:
            sys.exit(f"{source} gives {cases[-1]}")

    for i, source in enumerate(SNIPPETS.strip("\n").split("\n")):
        add(f"line {i + 1}", source, False)
    for i, source in enumerate(MANY[1:].split("=====\n")):
        add(f"lines {i + 1}", source, False)
    for i, source in enumerate(ERRORS.strip("\n").split("\n")):
        add(f"error {i + 1}", source, True)
    for path in sorted(pathlib.Path("testdata/templates").glob("*.jinja")):
        for name, data in CHATS.items():
            cases.append({"name": f"{path.name} {name}", "file": path.name, "data": name,
                          **text(lambda: compile_template(path.read_text()).render(**data))})
    json.dump({"now": "2026-03-07T09:05:02.000042Z", "data": {"snippets": DATA, **CHATS}, "cases": cases}, sys.stdout, ensure_ascii=False, indent=1)
    print()


WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a place.\nNow & <here>.", "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "Café “X”"}, "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
        "days": {"type": "array", "items": {"type": "integer"}}, "where": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
        "any": {"type": ["string", "null"]}}, "required": ["place"]}, "strict": False}}
CLOCK = {"function": {"parameters": {"properties": {}, "type": "object"}, "name": "clock"}, "type": "function"}


def call(name, arguments, id):
    return {"role": "assistant", "content": "", "tool_calls": [{"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}]}


COMMON = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
CHATS = {
    "one": {"messages": [{"role": "user", "content": "Hello, who are you? "}], **COMMON, "add_generation_prompt": True},
    "turns": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 2+2? "}, {"role": "assistant", "content": "4"},
                           {"role": "user", "content": "Café 👍"}], **COMMON, "add_generation_prompt": False},
    "tools": {"messages": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather in Paris?"},
                           call("weather", {"place": "Paris", "unit": "C", "days": [1, 2]}, "abcdefghi"),
                           {"role": "tool", "tool_call_id": "abcdefghi", "content": '{"temp": 12.5}'}],
              **COMMON, "tools": [WEATHER, CLOCK], "add_generation_prompt": True},
    "two results": {"messages": [{"role": "user", "content": "Both?"}, {**call("clock", {}, "123456789"), "tool_calls": call("clock", {}, "123456789")["tool_calls"] + call(
        "weather", {"place": "Ω"}, "987654321")["tool_calls"]}, {"role": "tool", "tool_call_id": "123456789", "content": "12:00"},
        {"role": "tool", "tool_call_id": "987654321", "content": "warm"}], **COMMON, "tools": [CLOCK], "add_generation_prompt": True},
    "built in": {"messages": [{"role": "user", "content": "Search."}, call("brave_search", {"query": "x", "n": "1"}, "abcdefghi"),
                              {"role": "ipython", "content": {"a": [1, "é"]}}], **COMMON, "builtin_tools": ["brave_search", "code_interpreter"],
                 "date_string": "1 Mar 2025", "add_generation_prompt": True},
    "thoughts": {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "<think>\nold\n</think>\n\nSo."}, {"role": "user", "content": "And?"},
                              {"role": "assistant", "reasoning_content": "\nnew\n", "content": "\n\nThus."}], **COMMON, "add_generation_prompt": False},
    "no thoughts": {"messages": [{"role": "user", "content": "Why?"}], **COMMON, "enable_thinking": False, "add_generation_prompt": True},
    "parts": {"messages": [{"role": "system", "content": [{"type": "text", "text": "See."}]}, {"role": "user", "content": [
        {"type": "image"}, {"type": "text", "text": " What is it? "}]}], **COMMON, "add_generation_prompt": True},
    "odd turns": {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b !stop"}, {"role": "assistant", "content": "c"}], **COMMON, "add_generation_prompt": True},
    "odd role": {"messages": [{"role": "user", "content": "a"}, {"role": "critic", "content": "b"}], **COMMON, "add_generation_prompt": False},
}

if __name__ == "__main__":
    main()
