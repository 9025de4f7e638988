import time


def prepare(server):
    server.sessions = [server.connect(autocommit=False) for _ in range(2)]
    for session, how in zip(server.sessions, ("READ WRITE", "READ ONLY")):
        cursor = session.cursor()
        cursor.execute(f"START TRANSACTION {how}")
        cursor.execute("SELECT * FROM sbtest1 LIMIT 1")


def check(server):
    time.sleep(0.2)  # what was read in the last 0.1 s is answered from a cache
    return str(server.sql("SELECT trx_is_read_only FROM information_schema.INNODB_TRX"
                          " ORDER BY 1"))


def finish(server):
    for session in server.sessions:
        session.close()
