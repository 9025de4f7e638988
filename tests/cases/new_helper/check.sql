SELECT REVERSE(_latin1'stressed'), REVERSE(_latin1'care'), REVERSE(_latin1''), REVERSE(NULL);
SELECT REVERSE(_utf8mb4'stressed');
