import json

from dcgan.dry_run import count_images, describe


def test_describe_writes_nothing(config, work_folder):
    before = sorted(work_folder.rglob("*"))
    facts = json.loads(describe(config, count_images(config)))
    assert facts["images"] == 24 and facts["iterations"] == 9
    assert facts["parameters"] == {"generator": 8 * 8 * 16 + 8 * 4 * 16 + 4 * 3 * 16 + 24, "discriminator": 848}
    assert sorted(work_folder.rglob("*")) == before
