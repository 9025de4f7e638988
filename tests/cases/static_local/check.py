"""How far the round robin moves with each transaction, read from the server's memory. Statistics
and other background work may add a few: hence many transactions."""
COUNTER = "_ZZL19trx_assign_rseg_lowP5trx_tE9rseg_slot"
TRANSACTIONS = 100


def prepare(server):
    server.sql("CREATE OR REPLACE TABLE rseg (a INT) ENGINE=InnoDB STATS_PERSISTENT=0")


def check(server):
    address = server.symbol(COUNTER)
    before = server.read_u32(address)
    with server.connect() as connection, connection.cursor() as cursor:
        for i in range(TRANSACTIONS):
            cursor.execute(f"INSERT INTO rseg VALUES ({i})")
    steps = (server.read_u32(address) - before) & 0xFFFFFFFF
    return f"{round(steps / TRANSACTIONS)} for each transaction"
