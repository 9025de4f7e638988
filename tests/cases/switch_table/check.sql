SELECT CONCAT('[',SPACE(1),']'), CONCAT('[',SPACE(2),']'), CONCAT('[',SPACE(3),']'), CONCAT('[',SPACE(4),']');
SELECT CONCAT('[',SPACE(5),']'), CONCAT('[',SPACE(6),']'), CONCAT('[',SPACE(7),']'), CONCAT('[',SPACE(8),']');
