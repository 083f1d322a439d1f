"""The words of the bundled tasks: one world for each split, with no name or form in common.

A sentence is a form with fields. The same fact is written in several forms, so that no single
pattern finds them all; every form of a fact has the same fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["TEST", "TRAIN", "World"]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True, slots=True)
class World:
    """Names, and the forms of sentences.

    Attributes:
        places, things, times: names, each of one word.
        code: forms of a code (``thing``, ``serial``, ``place``, ``number``).
        reading: forms of a value that is measured again and again (``thing``, ``place``,
            ``number``).
        order: forms of an amount (``place``, ``thing``, ``time``, ``number``).
        hop: forms of a step from one ``number`` to the ``next`` one.
        first, second, third: forms of three steps of different kinds.
        filler: sentences that no question is about (``place``, ``time``).
        questions: by the name of the task.
    """

    places: tuple[str, ...]
    things: tuple[str, ...]
    times: tuple[str, ...]
    code: tuple[str, ...]
    reading: tuple[str, ...]
    order: tuple[str, ...]
    hop: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    third: tuple[str, ...]
    filler: tuple[str, ...]
    questions: dict[str, str]


TRAIN: Final = World(
    places=_names(
        "Arlen Bergen Corvo Delmar Ebro Farsund Galway Hvar Istria Jura Kotor Luleå Moss Narvik"
        " Oban Porto Quimper Rovinj Skagen Tromsø Ullapool Visby Wexford Xanten Ystad Zadar Aveiro"
        " Bodø Cadiz Dingle Esbjerg Faro"
    ),
    things=_names(
        "anvils baskets candles drums easels flutes globes harps inkwells jugs kettles lanterns"
        " mirrors needles oars pulleys quilts ropes saddles tiles urns violins wagons yokes axles"
        " bellows chisels dials engines files gears hinges"
    ),
    times=_names(
        "January February March April May June July August September October November December"
    ),
    code=(
        "The crate of {thing} marked {serial} in {place} opens with {number}.",
        "{number} is what opens crate {serial} of the {thing} that stands in {place}.",
        "At {place}, {thing} lie in crate {serial}; dial {number} to open it.",
    ),
    reading=(
        "The stock of {thing} in {place} was counted again: {number}.",
        "{place} now has {number} {thing} in stock.",
        "A new count of {thing} at {place} gave {number}.",
    ),
    order=(
        "In {time}, {place} ordered {number} {thing}.",
        "{place} asked for {number} {thing} in {time}.",
        "An order of {number} {thing} for {place} came in {time}.",
    ),
    hop=(
        "The door in room {number} leads to room {next}.",
        "From room {number} one walks into room {next}.",
        "Room {next} lies behind the door of room {number}.",
    ),
    first=("Key {number} opens cabinet {next}.", "Cabinet {next} is opened by key {number}."),
    second=("Cabinet {number} holds folder {next}.", "Folder {next} lies in cabinet {number}."),
    third=("Folder {number} names account {next}.", "Account {next} is named in folder {number}."),
    filler=(
        "It rained in {place} for most of {time}.",
        "Nobody from {place} wrote in {time}.",
        "The roads to {place} were closed for some days in {time}.",
    ),
    questions={
        "needle": "Which number opens crate {serial} of the {thing} in {place}?",
        "latest": "How many {thing} did {place} have when they were counted last?",
        "count": "How many orders of {thing} did {place} place, whatever their size?",
        "distinct": "How many different places ordered {thing}?",
        "total": "Add up what was ordered of {thing} in {time}. What is the total?",
        "busiest": "Which place ordered most pieces of {thing} in all? Name it.",
        "chain": "You are in room {number} and walk through {steps} doors, one after the other."
        " In which room are you then? Give its number.",
        "relay": "Which account is named in the folder that lies in the cabinet which key {number}"
        " opens? Give its number.",
    },
)

TEST: Final = World(
    places=_names(
        "Altair Bellatrix Capella Deneb Electra Fomalhaut Gacrux Hadar Izar Kaus Lesath Mira Naos"
        " Okab Pollux Rigel Sirius Tarazed Unukalhai Vega Wezen Yildun Zaurak Antares Betria"
        " Castor Dubhe Elnath Furud Giedi Hamal Kraz"
    ),
    things=_names(
        "ampoules batteries cylinders diodes electrodes filters gaskets heaters insulators joints"
        " keypads lasers magnets nozzles optics pumps quartzes rotors sensors tubes valves washers"
        " antennas bolts coils discs emitters fuses gyros hulls ions jacks"
    ),
    times=_names("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda sigma"),
    code=(
        "Locker {serial} aboard {place}, {thing}: passcode {number}.",
        "Passcode {number} unlocks the {thing}, locker {serial}, on board {place}.",
        "On {place} the locker {serial} full of {thing} takes passcode {number}.",
    ),
    reading=(
        "Telemetry from {place}: pressure around its {thing} is {number}.",
        "{number} pascals were measured near the {thing} by {place}.",
        "{place} reports {number} as pressure at {thing}.",
    ),
    order=(
        "Shift {time}: {number} {thing} delivered, receiver {place}.",
        "{place} received {number} {thing} during shift {time}.",
        "A freighter brought {number} {thing} during shift {time}, destination {place}.",
    ),
    hop=(
        "Beacon {number} relays to beacon {next}.",
        "Signals of beacon {number} arrive at beacon {next}.",
        "Beacon {next} hears beacon {number}.",
    ),
    first=("Badge {number} belongs to pilot {next}.", "Pilot {next} wears badge {number}."),
    second=("Pilot {number} flies shuttle {next}.", "Shuttle {next} has pilot {number} at work."),
    third=("Shuttle {number} docks at port {next}.", "Port {next} is home to shuttle {number}."),
    filler=(
        "Maintenance aboard {place} continued throughout shift {time}.",
        "{place} had nothing unusual to report after shift {time}.",
        "Technicians of {place} rested before shift {time}.",
    ),
    questions={
        "needle": "Tell the passcode for locker {serial} with {thing} aboard {place}.",
        "latest": "Pressure at {thing} on {place}: how many pascals, by its final measurement?",
        "count": "How many deliveries of {thing} went to {place}? Ignore how large they were.",
        "distinct": "How many different ships received any {thing}?",
        "total": "Sum all {thing} delivered during shift {time}: what total results?",
        "busiest": "Name whichever ship received most {thing} over all deliveries.",
        "chain": "A message starts at beacon {number} and gets relayed {steps} times."
        " Where does it end? Only write that beacon's number.",
        "relay": "Badge {number}: at which port does its pilot's shuttle dock? Only write that"
        " port's number.",
    },
)
