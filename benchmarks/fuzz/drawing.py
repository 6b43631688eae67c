"""What values are drawn from: texts that break things, numbers at every edge."""

from __future__ import annotations

from hypothesis import strategies as st

WEIRD_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "",
            " ",
            "\0",
            "a\0b",
            "\ud800",
            "\udcff",
            "🎈" * 20,
            "مرحبا بالعالم",
            "\u202eevil",
            "\ufeff",
            "e\u0301",
            "<script>alert(1)</script>",
            "x" * 100_000,
            "../../etc/passwd",
            "nan",
            "NaN",
            "1e999",
            "-0",
            "9" * 5000,
            "Ünïcödé \r\n\t",
            "=cmd()",
            '"',
            "'",
            "\\",
        ]
    ),
)
NUMBERS = st.one_of(
    st.integers(), st.integers(-3, 70), st.floats(), st.sampled_from([2**31, 2**63, -(2**63), 10**30, True, None, 0.05, 1.0])
)
ANYTHING = st.one_of(
    WEIRD_TEXTS,
    NUMBERS,
    st.binary(max_size=8),
    st.lists(NUMBERS, max_size=4),
    st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2),
)


def readable() -> st.SearchStrategy[str]:
    """Texts that a dataset takes, mostly: never empty, no half characters."""
    words = st.sampled_from(
        ["good", "bad", "same", "a\0b", "🎈", "مرحبا", "\u202eevil", "<script>", "e\u0301", "x" * 100_000, "1e999"]
    )
    return st.lists(words, min_size=1, max_size=4).map(" ".join)
