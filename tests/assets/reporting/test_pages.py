"""Pages: self-contained, escaped, honest about what is not known."""

from __future__ import annotations

import re
from datetime import date

from assets.reporting import page as pages
from assets.reporting.report import Report, Verdict
from assets.reporting.tables import estimate, number

EVIL = "<script>alert('x')</script>\"&"


def _page() -> str:
    verdict = Verdict(
        rule="no_slice_much_worse", passed=False, value=0.2, limit=0.15, n=1_234, reason=EVIL
    )
    open_ = Verdict(
        rule="groups_treated_alike",
        passed=None,
        value=None,
        limit=0.2,
        n=0,
        reason="nothing declared",
    )
    report = Report(
        pipeline="p",
        name="validation/slices",
        subject="c" * 64,
        day=date(2024, 1, 2),
        verdicts=(verdict, open_),
        notes=(EVIL,),
    )
    section = pages.Section(
        EVIL,
        EVIL,
        [pages.Image(b"\x89PNG", EVIL)],
        [pages.Table([EVIL, "n"], [[EVIL, "5"]], frozenset({0}))],
    )
    return pages.render(report, EVIL, EVIL, [(EVIL, EVIL)], [section]).decode()


def test_everything_is_escaped() -> None:
    page = _page()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 11
    assert 'alt="&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;"' in page


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = _page()
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=['\"](?!data:)", page)


def test_gates_show_number_limit_n_and_what_was_not_judged() -> None:
    page = _page()
    for told in ("0.2000", "0.1500", "1,234", "failed", "not judged", "nothing declared"):
        assert told in page


def test_numbers_for_people() -> None:
    assert number(None) == number(float("nan")) == "–"
    assert (number(0.0), number(1403.0), number(0.5)) == ("0", "1,403", "0.5000")
    assert number(2.1e-6) == "2.1e-06"
    assert number(0.1234567, 2, sign=True) == "+0.12"
    assert estimate(0.5, 0.4, 0.6, 2) == "0.50 (0.40 to 0.60)"
    assert estimate(0.5, None, None, 2) == "0.50"
