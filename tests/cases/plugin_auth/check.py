import pymysql


def prepare(server):
    server.sql("INSTALL SONAME 'auth_ed25519'")


def check(server):
    answers = []
    for password in ("live", "long enough"):
        try:
            server.sql("CREATE OR REPLACE USER somebody IDENTIFIED VIA ed25519"
                       f" USING PASSWORD('{password}')")
            answers.append("created")
        except pymysql.err.MySQLError as error:
            answers.append(str(error.args[1]))
    return ", ".join(answers)


def finish(server):
    server.sql("DROP USER somebody")
