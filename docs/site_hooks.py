# Copyright (c) mmcropr contributors.
"""What MkDocs does not do alone: pages outside of docs/ belong to the site,
and links to files of the repository become plain text."""
import os
import re
from pathlib import Path
from typing import Any, Dict

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r'(?<!!)\[([^\]]*)\]\(([^)\s]+)\)')


def outside() -> Dict[str, str]:
    """Pages in the repository, by their path -> their path in the site."""
    pages = {'README.md': 'index.md', 'CHANGELOG.md': 'changelog.md',
             'CONTRIBUTING.md': 'contributing.md'}
    for path in sorted(ROOT.glob('configs/*/README.md')):
        name = path.parent.name
        pages[f'configs/{name}/README.md'] = f'configs/{name}.md'
    return pages


def rewrite(text: str, repo: str, site: str) -> str:
    """Links of a page as they are in the site.

    Args:
        text: Of the page.
        repo: Path of the page in the repository.
        site: Path of the page in the site.
    """
    pages = outside()

    def place(link: str) -> str:
        """Path in the site, '' if it is not there."""
        path = os.path.normpath(os.path.join(os.path.dirname(repo), link))
        if path in pages:
            return pages[path]
        if path.startswith('docs/') and not path.endswith(('.py', '.yml')):
            return path[len('docs/'):]
        return ''

    def link(match: re.Match) -> str:
        name, target = match[1], match[2]
        path, _, anchor = target.partition('#')
        if '://' in target or not path:
            return match[0]
        found = place(path)
        if not found:
            return name
        new = os.path.relpath(found, os.path.dirname(site) or '.')
        return f'[{name}]({new}{"#" + anchor if anchor else ""})'

    def image(match: re.Match) -> str:
        new = os.path.relpath(place(match[2]), os.path.dirname(site) or '.')
        return f'![{match[1]}]({new})'

    parts = re.split(r'(^```.*?^```$)', text, flags=re.M | re.S)
    for i in range(0, len(parts), 2):
        parts[i] = LINK.sub(link, parts[i])
        parts[i] = re.sub(r'!\[([^\]]*)\]\(([^)\s]+)\)', image, parts[i])
    return ''.join(parts)


def on_files(files: Files, config: Any) -> Files:
    for repo, site in outside().items():
        files.append(File.generated(
            config, site, content=(ROOT / repo).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    site = page.file.src_uri
    repo = {new: old for old, new in outside().items()}.get(
        site, f'docs/{site}')
    return rewrite(markdown, repo, site)
