"""Sphinx settings. Nothing is fetched while building, so the build works offline."""

from importlib.metadata import version as installed_version

project = "Tenantry"
author = "The Tenantry authors"
copyright = author  # noqa: A001  the name is Sphinx's
version = release = installed_version("tenantry")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Names of other projects: their inventories would have to be downloaded.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(collections|concurrent|contextlib|contextvars|datetime|os|pathlib|types|typing|uuid)\..*",
    ),
    (r"py:.*", r"(annotated_types|opentelemetry|psycopg|pydantic|pydantic_settings|wrapt)\..*"),
    (r"py:(class|exc|obj)", r"[a-z]+|[A-Z][A-Za-z]*(Error|Exception)|Path|UUID|Any|None|Callable"),
    (r"py:class", r"ModuleType"),
    # Types of our own that signatures mention, and that nobody needs to name.
    (
        r"py:class",
        r"(tenantry\.[\w.]+\.)?(Binding|EventType|F|Redaction|TenantType|Clock|_Running)",
    ),
    # A default of a dataclass's field, cut at its comma.
    (r"py:class", r"dict\[str"),
    # napoleon takes what stands before a colon, in an attribute's docstring, for its type.
    (r"py:class", r"When the batch ends its segment"),
]

html_theme = "furo"
html_title = f"Tenantry {release}"
