"""Numbers of the pages, made again by `python -m eval.claims`; an edited page is seen."""

import pytest

from eval import claims


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: f"{claim.page}: {claim.words}")
def test_a_page_shows_what_is_made_again(claim):
    (outcome,) = claims.outcomes((claim,))
    assert outcome.agrees, (outcome.shown, outcome.made)


def test_another_number_and_missing_words_are_seen(tmp_path, capsys, monkeypatch):
    claim = claims.Claim("page.md", "it has {} numbers", lambda: 2080)
    for text, number, agrees in (
        ("so it\nhas 2,080 numbers", 2080, True),
        ("it has 2,081 numbers", 2081, False),
        ("it had 2,080", None, False),
    ):
        (tmp_path / "page.md").write_text(text)
        (outcome,) = claims.outcomes((claim,), tmp_path)
        assert (outcome.shown, outcome.agrees) == (number, agrees)
    monkeypatch.setattr(claims, "outcomes", lambda: [claims.Outcome(claim, 2081, 2080)])
    assert claims.main([]) == 1
    assert "0 of 1 numbers agree" in capsys.readouterr().out
