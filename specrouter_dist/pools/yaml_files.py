"""YAML that users write."""

from pathlib import Path
from typing import Any

import yaml

from specrouter_dist.errors import ConfigError, NotFoundError


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                mark = node.value[i][0].start_mark
                raise yaml.MarkedYAMLError(problem=f"{key!r} stands twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping of fields in a YAML (or JSON) file.

    Raises:
        NotFoundError: the file cannot be read.
        ConfigError: it is no UTF-8, no YAML, holds a key twice, or holds no mapping.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as problem:
        raise NotFoundError(f"{file}: cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{file}: not UTF-8 at byte {problem.start}") from None
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{file}{where}: no valid YAML: {problem.problem}") from None
    except yaml.YAMLError as problem:
        raise ConfigError(f"{file}: no valid YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must be a mapping of fields, got {type(content).__name__}")
    return content
