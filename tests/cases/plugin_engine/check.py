def prepare(server):
    server.sql("INSTALL SONAME 'ha_archive'")
    server.sql("CREATE TABLE archived (id INT, text CHAR(11) CHARACTER SET latin1) ENGINE=ARCHIVE")
    server.sql("INSERT INTO archived VALUES (1, 'one'), (2, 'two'), (3, 'three')")


def check(server):
    rows = server.sql("SELECT SUM(id) FROM archived")
    free = server.value("SELECT DATA_FREE FROM information_schema.TABLES"
                        " WHERE TABLE_NAME='archived'")
    return f"{rows[0][0]} {free}"


def finish(server):
    server.sql("DROP TABLE archived")
