MESSAGE = "InnoDB: ten objects were taken from a pool"


def check(server):
    """Whether the server tells it when twelve connections use InnoDB."""
    before = server.error_log().count(MESSAGE)
    for _ in range(12):
        server.value("SELECT COUNT(*) FROM sbtest1 WHERE id = 1")
    return str(server.error_log().count(MESSAGE) > before)
