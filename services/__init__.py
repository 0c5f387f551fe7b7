"""All that hybrid-tui does, without a user interface: async, typed, frozen data in and out.

Nothing below this package imports Textual; only ``services.runtime`` imports torch.
"""
