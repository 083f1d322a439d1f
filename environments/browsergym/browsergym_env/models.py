"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["BrowserGymAction", "BrowserGymObservation", "BrowserGymState"]


@dataclass
class BrowserGymAction:
    """Actions on the page.

    Attributes:
        action_str: one or more calls of the action set, one a line, such as ``click('12')`` or
            ``fill('7', 'hello')``, alone or in a model's text. Arguments are literals. ``""`` does
            nothing.
    """

    action_str: str


@dataclass
class BrowserGymObservation:
    """The contents of the page. Parts that ``observe`` of the reset leaves out are empty.

    Attributes:
        goal: the task in words.
        url: the page's address, ``http://miniwob/`` standing for the folder of the pages.
        text: the visible text.
        axtree_txt: the accessibility tree, one node a line, with the bids of its elements.
        pruned_html: the visible document with bids, without scripts and styles.
        screenshot: an image file (PNG or JPEG) of the viewport, with marks or without, or ``None``.
        focused_element_bid: the element that has the focus.
        error: why the last action failed, ``""`` when it did not.
        last_action_error: whether it failed.
        open_pages_urls: the addresses of the tabs, in their order.
        open_pages_titles: their titles.
        active_page_index: the place in them of the tab that the rest is of.
    """

    goal: str
    url: str
    text: str = ""
    axtree_txt: str = ""
    pruned_html: str = ""
    screenshot: bytes | None = None
    focused_element_bid: str | None = None
    error: str = ""
    last_action_error: bool = False
    open_pages_urls: list[str] = field(default_factory=list)
    open_pages_titles: list[str] = field(default_factory=list)
    active_page_index: int = 0


@dataclass
class BrowserGymState:
    """The position of the episode.

    Attributes:
        benchmark: ``miniwob`` or ``sites``.
        task_name: such as ``click-test``, or the id of a task on sites.
        task_id: the benchmark and the name, ``miniwob.click-test``.
        goal: the task in words.
        current_url: the page's address.
        max_steps: steps after which the episode is truncated.
        cum_reward: sum of the rewards so far.
        step_count: steps since the reset.
        elapsed_time: seconds of the page's own clock since the reset.
        reason: why the episode ended, where there is something to say.
        messages: what the agent said with ``send_msg_to_user`` and ``report_infeasible``.
    """

    benchmark: str
    task_name: str
    task_id: str
    goal: str
    current_url: str
    max_steps: int
    cum_reward: float
    step_count: int
    elapsed_time: float
    reason: str | None = None
    messages: list[str] = field(default_factory=list)
