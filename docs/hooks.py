"""What MkDocs does beyond mkdocs.yml: files that lie above `docs/` become pages, and links between both lead there."""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File
from notebooks import notebook, tutorials

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # file of the repository: page of the site
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "covjax/tasks/quickstart/README.md": "quickstart-data.md",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)(?=[)#])")


def moved(markdown: str, file: str, page: str, repository: str) -> str:
    """The text of a repository's file with its links as they are seen from its page."""

    def link(match: re.Match) -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(file), match[1]))
        if not (ROOT / path).exists():
            return match[1]
        if path not in PAGES and not path.startswith("docs/"):
            return f"{repository}/blob/main/{path}"
        target = PAGES.get(path) or path.removeprefix("docs/")
        return os.path.relpath(target, os.path.dirname(page) or ".")

    return LINK.sub(link, markdown)


def on_files(files, config):
    """Add the pages made of files above `docs/`, and the tutorials' notebooks."""
    for file, page in PAGES.items():
        content = moved((ROOT / file).read_text(), file, page, config.repo_url)
        files.append(File.generated(config, page, content=content))
    for page in tutorials():
        files.append(File.generated(config, _notebook_file(page.removeprefix("docs/")), content=notebook(page)))
    return files


def _notebook_file(page: str) -> str:
    return page.removesuffix(".md") + ".ipynb"


def on_page_markdown(markdown, page, config, files):
    """Links of a page in `docs/` to a file above it lead to that file's page; a tutorial offers its notebook."""
    name = page.file.src_uri
    if f"docs/{name}" in tutorials():
        offer = f"[Download this page as a notebook]({os.path.basename(_notebook_file(name))})"
        markdown = re.sub(r"^(# .+\n)", rf"\1\n{offer}\n", markdown, count=1)
    return markdown if name in PAGES.values() else moved(markdown, f"docs/{name}", name, config.repo_url)
