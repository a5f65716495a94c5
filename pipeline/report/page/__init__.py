"""The parts of reports/index.html: what each shows, ready to be put into its template."""
