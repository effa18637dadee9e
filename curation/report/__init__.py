"""What a run tells people: report.json, the page, the summary on the terminal, answers to questions."""

PAGE = "report.html"


def render(output: str) -> list[str]:
    """Make again what follows from report.json, run.json and samples/ alone; the paths of the files.

    ValueError when `output` holds no finished run.
    """
    from curation.report.data_card import write_data_card
    from curation.report.page import write_page

    return [write_page(output), *write_data_card(output)]
