"""Audit: what is in this corpus, and why, from the manifest and the tables that it names; never from the tars.

from imglish.audit.report import report
report("corpus/manifest.json", "corpus/report.html")        # and corpus/audit.json beside it

from imglish.audit.look import contact_sheet
contact_sheet("corpus/manifest.json", "corpus/look.png")
"""
