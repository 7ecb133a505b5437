from scripts.settings_docs import DOCUMENT, rewritten
from service.settings import Settings
from service.settings.texts import SettingText


def test_the_tables_are_current() -> None:
    text = DOCUMENT.read_text()
    assert rewritten(text, Settings.texts()) == text, "run python -m scripts.settings_docs"
    for name in Settings.model_fields:
        assert f"| `GENSERVE_{name.upper()}` |" in text


def test_there_is_a_table_for_each_group_and_the_rest_stays() -> None:
    settings = [
        SettingText("limits", "GENSERVE_MOST", "4", "rows", "Most rows | of GENSERVE_A.", "If * is in it."),
        SettingText("logs", "GENSERVE_LOG", "unset", "", "The log.", "Never."),
    ]
    text = "before\n<!-- settings -->\nstale\n<!-- end of settings -->\nafter\n"
    assert rewritten(text, settings).splitlines() == [
        "before",
        "<!-- settings -->",
        "",
        "**Limits**",
        "",
        "| name | default | unit | meaning | when to change |",
        "| --- | --- | --- | --- | --- |",
        r"| `GENSERVE_MOST` | `4` | rows | Most rows \| of `GENSERVE_A`. | If \* is in it. |",
        "",
        "**Logs**",
        "",
        "| name | default | unit | meaning | when to change |",
        "| --- | --- | --- | --- | --- |",
        "| `GENSERVE_LOG` | unset |  | The log. | Never. |",
        "",
        "<!-- end of settings -->",
        "after",
    ]
