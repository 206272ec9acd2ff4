"""What a conversion or an evaluation found, as HTML for a browser and Markdown for a terminal."""
