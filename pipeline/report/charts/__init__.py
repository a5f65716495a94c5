"""The report's charts: one Vega-Lite specification each, for the picture and for the page."""
