"""How far the round robin moved in five transactions, read from the server's memory."""
COUNTER = "_ZZL19trx_assign_rseg_lowP5trx_tE9rseg_slot"


def check(server):
    server.sql("CREATE TABLE IF NOT EXISTS rseg (a INT) ENGINE=InnoDB")
    address = server.symbol(COUNTER)
    before = server.read_u32(address)
    for i in range(5):
        server.sql(f"INSERT INTO rseg VALUES ({i})")
    return f"{server.read_u32(address) - before} steps in 5 transactions"
