"""Reports of a conversion or evaluation, as HTML and Markdown."""
