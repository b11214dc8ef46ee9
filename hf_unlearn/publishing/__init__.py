"""The report to a model card, the ledger of requests, and one commit on the Hub."""
